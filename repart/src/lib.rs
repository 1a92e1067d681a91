//! Additive repartitioning of GPT disks by repart.d definitions: observe → plan → check → apply.
//!
//! ```no_run
//! use repart::{BlockDevice, DirFiles, Definitions, Guid, LoadContext, NoContents, Policy};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let definitions = Definitions::load(&DirFiles, &["/usr/lib/repart.d".into()], &LoadContext::default())?;
//! let mut disk = BlockDevice::open("/dev/vda".as_ref(), true, None)?;
//! let policy = Policy::new(Guid::from_bytes([1; 16]), Guid::from_bytes([2; 16]));
//! let plan = repart::plan(&repart::observe(&disk)?, &definitions, &policy)?;
//! repart::apply(&plan, &mut disk, &mut NoContents)?;
//! # Ok(())
//! # }
//! ```

mod apply;
mod architectures;
mod check;
#[cfg(feature = "cli")]
pub mod cli;
pub mod definition;
mod disk;
pub mod format;
mod gpt;
mod guid;
mod ini;
mod plan;
pub mod populate;
mod size;
mod specifier;
mod types;

pub use apply::{ApplyError, Contents, ContentsError, NoContents, Outcome, apply};
pub use check::{CheckError, check};
pub use definition::{
    Definition, DefinitionError, Definitions, DirFiles, FileContent, Files, LoadContext,
    TypeFilter, Warning,
};
pub use disk::{BlockDevice, Disk};
pub use gpt::{
    Copy, Entry, Gpt, Mbr, ObserveError, Snapshot, Table, TableState, WriteError, observe,
};
pub use guid::Guid;
pub use plan::{
    Activity, Deviations, Dropped, EmptyMode, Plan, PlanError, PlannedPartition, Policy, Unfit,
    marked_for_reset, minimal_size, plan, plan_deletion,
};
pub use size::{parse_bool, parse_size};
pub use specifier::{Specifiers, UnknownSpecifier};
pub use types::{Architecture, Designator, PartitionType};
