//! The planner: from what is there and what is wanted to what will be. Pure, total, seeded (spec 2 and 3).
//!
//! Invariant: the same input gives the same plan; nothing here reads a clock, a random source or the
//! environment; every input ends in a [`Plan`] or a [`PlanError`], never in a panic.

mod display;
mod error;
mod fit;
mod geometry;
mod grow;
mod identity;
mod items;
mod limits;
mod place;
mod policy;

use std::sync::Arc;

use crate::definition::{Definition, Definitions};
use crate::gpt::{Copy, Mbr, MbrWrite, Snapshot, Table};
use crate::guid::Guid;
use crate::types::PartitionType;

pub use error::{PlanError, Unfit};
pub use policy::{Deviations, EmptyMode, Policy};

/// What happens to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Size and place stay.
    Kept,
    /// New.
    Created,
    /// Larger, same place.
    Grown,
    /// Removed by a factory reset.
    Deleted,
}

impl Activity {
    /// As in the boot report: `kept`, `created`, `grown`, `deleted`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Created => "created",
            Self::Grown => "grown",
            Self::Deleted => "deleted",
        }
    }
}

/// One partition of a plan.
#[derive(Clone, Debug)]
pub struct PlannedPartition {
    /// Number, from 1: the slot.
    pub number: u32,
    /// Type.
    pub partition_type: PartitionType,
    /// Label afterwards.
    pub label: String,
    /// UUID afterwards.
    pub uuid: Guid,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// Bytes afterwards.
    pub size: u64,
    /// Bytes before; 0 for a new one.
    pub old_size: u64,
    /// Free bytes behind it afterwards.
    pub padding: u64,
    /// Free bytes behind it before.
    pub old_padding: u64,
    /// What happens.
    pub activity: Activity,
    /// Attributes afterwards.
    pub attributes: u64,
    /// UUID for the file system, derived from `uuid`.
    pub fs_uuid: Guid,
    /// UUID for the LUKS2 header, derived from `uuid`.
    pub luks_uuid: Guid,
    /// Space is kept for it, but it is neither written nor filled (`--defer-partitions=`).
    pub deferred: bool,
    definition: Option<Arc<Definition>>,
}

impl PlannedPartition {
    /// What it was matched with or made from; `None` for a foreign one.
    #[must_use]
    pub fn definition(&self) -> Option<&Definition> {
        self.definition.as_deref()
    }

    /// It is new and its contents have to be made now.
    #[must_use]
    pub fn is_created(&self) -> bool {
        self.activity == Activity::Created && !self.deferred
    }

    /// First byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}

/// A definition that got no partition.
#[derive(Clone, Debug)]
pub struct Dropped {
    /// Which.
    pub definition: Arc<Definition>,
    /// Bytes it would have needed.
    pub need: u64,
}

/// What will be done. [`Display`](std::fmt::Display) prints it as a table.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By position on disk.
    pub partitions: Vec<PlannedPartition>,
    /// Removed by a factory reset, as they were.
    pub deleted: Vec<PlannedPartition>,
    /// Not made for want of space.
    pub dropped: Vec<Dropped>,
    /// Decisions a person may wonder about.
    pub notes: Vec<String>,
    /// Bytes of the disk the plan was made for.
    pub disk_len: u64,
    /// Logical block size of that disk.
    pub sector_size: u32,
    /// Grain in bytes.
    pub grain: u64,
    /// The whole disk gets a new table; what was there is lost.
    pub from_scratch: bool,
    /// Ranges of new partitions are discarded first.
    pub discard: bool,
    pub(crate) table: Table,
    pub(crate) good_copy: Copy,
    pub(crate) mbr: Mbr,
    pub(crate) write: bool,
}

impl Plan {
    /// Something will be written.
    #[must_use]
    pub fn changes_disk(&self) -> bool {
        self.write
    }

    /// The new partitions, whose contents are made before the table is written.
    pub fn created(&self) -> impl Iterator<Item = &PlannedPartition> {
        self.partitions
            .iter()
            .filter(|partition| partition.is_created())
    }

    pub(crate) fn mbr_write(&self) -> MbrWrite {
        if self.from_scratch {
            MbrWrite::New
        } else {
            self.mbr.repair()
        }
    }

    /// The table as it will be.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }
}

/// Makes the plan.
///
/// # Errors
/// Every refusal, with the numbers behind it.
pub fn plan(
    snapshot: &Snapshot,
    definitions: &Definitions,
    policy: &Policy,
) -> Result<Plan, PlanError> {
    let ground = geometry::survey(snapshot, policy)?;
    let mut work = items::Work::new(&ground, definitions, policy)?;
    work.load(&ground, policy);
    identity::assign(&mut work, policy);
    fit::fit(&mut work)?;
    work.reorder();
    grow::grow(&mut work);
    place::place(&mut work, &ground)?;
    let plan = place::finish(work, ground, policy)?;
    crate::check::check(snapshot, &plan)?;
    Ok(plan)
}

/// Numbers of the partitions a factory reset would delete.
///
/// # Errors
/// A disk or definitions that cannot be planned with.
pub fn marked_for_reset(
    snapshot: &Snapshot,
    definitions: &Definitions,
    policy: &Policy,
) -> Result<Vec<u32>, PlanError> {
    let policy = Policy {
        factory_reset: true,
        ..policy.clone()
    };
    let ground = geometry::survey(snapshot, &policy)?;
    let mut work = items::Work::new(&ground, definitions, &policy)?;
    work.load(&ground, &policy);
    Ok(work
        .deleted
        .iter()
        .map(|current| current.entry.number)
        .collect())
}

/// The deleting half of a factory reset alone: systemd-repart writes it before it knows whether the rest fits.
///
/// # Errors
/// A disk or definitions that cannot be planned with.
pub fn plan_deletion(
    snapshot: &Snapshot,
    definitions: &Definitions,
    policy: &Policy,
) -> Result<Plan, PlanError> {
    let policy = Policy {
        factory_reset: true,
        ..policy.clone()
    };
    let ground = geometry::survey(snapshot, &policy)?;
    let mut work = items::Work::new(&ground, definitions, &policy)?;
    work.load(&ground, &policy);
    work.leave_everything();
    identity::assign(&mut work, &policy);
    grow::grow(&mut work);
    let plan = place::finish(work, ground, &policy)?;
    crate::check::check(snapshot, &plan)?;
    Ok(plan)
}

/// Bytes the disk needs for what is there and all definitions (`--size=auto`).
///
/// # Errors
/// A disk, definitions or a grain that cannot be planned with.
pub fn minimal_size(
    snapshot: &Snapshot,
    definitions: &Definitions,
    policy: &Policy,
) -> Result<u64, PlanError> {
    let grain = geometry::grain(policy, snapshot.sector_size)?;
    let work = if geometry::extends(snapshot, policy) {
        let ground = geometry::survey(snapshot, policy)?;
        let mut work = items::Work::new(&ground, definitions, policy)?;
        work.load(&ground, policy);
        work
    } else {
        items::Work::empty(definitions, policy, grain, snapshot.sector_size)?
    };
    let needs = work
        .order
        .iter()
        .filter(|item| !work.suppressed(**item))
        .map(|item| work.need(*item));
    let tables =
        crate::size::round_up(1 << 20, grain) + (16 << 10) + u64::from(snapshot.sector_size);
    Ok(needs.fold(tables, u64::saturating_add))
}
