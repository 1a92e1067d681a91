//! Why there is no plan. Every refusal carries the numbers a person can act on.

use std::path::PathBuf;

use super::policy::EmptyMode;
use crate::size::human;

/// Why there is no plan. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No table, and the mode asks for one.
    #[error("the disk has no GPT and empty={mode} does not allow to make one")]
    NoTable {
        /// The mode.
        mode: &'static str,
    },
    /// A table that is no GPT.
    #[error("the disk has {what} and empty={mode} does not allow to replace it")]
    OtherTable {
        /// What it has.
        what: String,
        /// The mode.
        mode: &'static str,
    },
    /// A table where there must be none.
    #[error("the disk already has a GPT and empty={mode} wants a disk without one")]
    HasTable {
        /// The mode.
        mode: &'static str,
    },
    /// Not even the table fits.
    #[error("the disk has {len} bytes, a partition table with room for partitions needs {need}")]
    DiskTooSmall {
        /// Bytes there.
        len: u64,
        /// Bytes needed.
        need: u64,
    },
    /// systemd-repart cannot change such a table; [`super::Deviations::derive_disk_guid`] can.
    #[error("the disk's GUID is all zero")]
    ZeroDiskGuid,
    /// A grain that is no power of two ≥ 512.
    #[error("grain {0} is no power of two of at least 512 bytes")]
    Grain(u64),
    /// An entry that ends before it starts.
    #[error("partition {number} starts at sector {first} and ends at sector {last}")]
    Malformed {
        /// Which.
        number: u32,
        /// First sector.
        first: u64,
        /// Last sector.
        last: u64,
    },
    /// An entry where the tables themselves have to be.
    #[error(
        "partition {number} covers sectors {first}…{last}, outside of the usable {usable_first}…{usable_last}"
    )]
    OutOfRange {
        /// Which.
        number: u32,
        /// First sector.
        first: u64,
        /// Last sector.
        last: u64,
        /// First usable sector.
        usable_first: u64,
        /// Last usable sector.
        usable_last: u64,
    },
    /// The minimums do not fit, and nothing is left to drop.
    #[error("{0}")]
    Unfit(Box<Unfit>),
    /// More partitions than slots.
    #[error("the table has {slots} slots, {needed} partitions are needed")]
    TooManyPartitions {
        /// Slots there.
        slots: u32,
        /// Partitions wanted.
        needed: usize,
    },
    /// A new partition would need what only an image build does.
    #[error("{}: {keys} is for building images; make the partition with systemd-repart or mkosi", path.display())]
    BuildOnly {
        /// The definition.
        path: PathBuf,
        /// The keys.
        keys: String,
    },
    /// A supplement whose target is filtered out.
    #[error("{}: SupplementFor={target} names a definition that is excluded", path.display())]
    SupplementExcluded {
        /// The definition.
        path: PathBuf,
        /// The target.
        target: String,
    },
    /// The plan failed its own linter: a defect of this program, stopped before anything was written.
    #[error("the plan is unsound ({0}); nothing was written")]
    Unsound(#[from] crate::check::CheckError),
}

/// Which partition does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A new partition.
    #[error(
        "{} needs {need} bytes ({}) for a new partition; the largest gap left has {} bytes ({}){}",
        path.display(), human(*need), largest, human(*largest), gap_after(*after)
    )]
    New {
        /// The definition.
        path: PathBuf,
        /// Bytes needed, padding included.
        need: u64,
        /// Bytes of the largest gap after what comes first was served.
        largest: u64,
        /// The partition before that gap.
        after: Option<u32>,
    },
    /// An existing partition that must grow.
    #[error(
        "partition {number} ({label}) has {size} bytes and its definition {} asks for at least {need} ({}); \
         {free} bytes are free behind it{}",
        path.display(), human(*need), blocked(*next)
    )]
    Existing {
        /// The partition.
        number: u32,
        /// Its label.
        label: String,
        /// The definition.
        path: PathBuf,
        /// Bytes it has.
        size: u64,
        /// Bytes needed, padding included.
        need: u64,
        /// Free bytes behind it.
        free: u64,
        /// The partition that is in the way, `None` for the end of the disk.
        next: Option<u32>,
    },
}

fn gap_after(after: Option<u32>) -> String {
    after.map_or_else(String::new, |number| format!(", behind partition {number}"))
}

fn blocked(next: Option<u32>) -> String {
    next.map_or_else(
        || ", then the disk ends".to_owned(),
        |number| format!(", then comes partition {number}"),
    )
}

impl EmptyMode {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Allow => "allow",
            Self::Require => "require",
            Self::Force => "force",
            Self::Create => "create",
        }
    }
}

impl PlanError {
    /// The table is missing or unsuitable for the mode (exit code 77 of `repart`).
    #[must_use]
    pub fn is_unsuitable_table(&self) -> bool {
        matches!(
            self,
            Self::NoTable { .. } | Self::OtherTable { .. } | Self::HasTable { .. }
        )
    }
}
