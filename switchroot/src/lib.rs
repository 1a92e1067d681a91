//! The way from the initramfs to the real root: which mounts, in which order, and the point of no return.
//!
//! Invariant: nothing is visible before it is complete, and nothing is deleted before all checks are done
//! (`spec/trust.md` section 9). File systems are mounted detached ([`mount_device`]), given their directories while nobody
//! can see them, and attached as one tree ([`NewRoot::assemble`]); [`check_init`] looks at that tree; [`handover`] moves it
//! onto `/`. An error up to there leaves the initramfs as it was.
//!
//! A fully detached tree needs Linux 6.15 (before, a mount can only be put onto an attached one), so the tree's root is
//! attached to a directory of the initramfs first, which nothing else looks into.

mod api;
mod beneath;
mod error;
mod filesystem;
mod free;
mod handover;
mod init;
mod options;
pub mod probe;
mod root;
mod step;

pub use api::{early_api_mounts, efi_mounts};
pub use error::{Attempt, Error, HandoverError};
pub use filesystem::{Mounted, mount_device, mount_virtual};
pub use handover::handover;
pub use init::{Init, check_init};
pub use options::{Attributes, MountOptions};
pub use root::{NewRoot, Root};
pub use step::{Outcome, Source, Step, apply};
