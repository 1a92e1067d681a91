//! What a plan depends on besides the disk and the definitions.

use crate::guid::Guid;
use crate::types::PartitionType;

/// What to do with a disk without a GPT (`--empty=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are those of the values")]
pub enum EmptyMode {
    #[default]
    Refuse,
    Allow,
    Require,
    Force,
    Create,
}

/// Where we do better than systemd-repart 262 (README.md has the reasons).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches, each named in README.md"
)]
pub struct Deviations {
    /// After a factory reset the other partitions keep their definitions instead of being matched anew.
    pub match_by_identity: bool,
    /// The table is also written when only a copy, its place or the MBR is wrong.
    pub repair_table: bool,
    /// A disk GUID of zero is derived instead of refused.
    pub derive_disk_guid: bool,
    /// A dry run sees the space of a disk that has grown.
    pub honest_dry_run: bool,
    /// Attribute bits below 48 and labels beyond U+FFFF are written instead of losing the whole field.
    pub verbatim: bool,
    /// A partition off the grid is charged what it takes and not refused for the rounding, so that a second run
    /// neither fails nor changes anything.
    pub exact_unaligned: bool,
    /// A GPT without a protective MBR is a GPT.
    pub accept_missing_mbr: bool,
}

impl Deviations {
    /// Exactly systemd-repart 262.
    pub const NONE: Self = Self {
        match_by_identity: false,
        repair_table: false,
        derive_disk_guid: false,
        honest_dry_run: false,
        verbatim: false,
        exact_unaligned: false,
        accept_missing_mbr: false,
    };
    /// What the initrd agent uses.
    pub const ALL: Self = Self {
        match_by_identity: true,
        repair_table: true,
        derive_disk_guid: true,
        honest_dry_run: true,
        verbatim: true,
        exact_unaligned: true,
        accept_missing_mbr: true,
    };
}

/// The caller's decisions.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Key of all derived UUIDs (machine ID, `--seed=`).
    pub seed: Guid,
    /// Stands in where systemd-repart takes a random UUID.
    pub entropy: Guid,
    /// A disk without a table.
    pub empty: EmptyMode,
    /// Delete and re-create what is marked `FactoryReset=yes`.
    pub factory_reset: bool,
    /// Nothing will be written (matters only without [`Deviations::honest_dry_run`]).
    pub dry_run: bool,
    /// Alignment in bytes before the sector size is taken into account; a power of two ≥ 512.
    pub grain: u64,
    /// Sector size file systems are made with; decides the smallest vfat.
    pub fs_sector_size: u64,
    /// Types whose partitions get space but are not made now.
    pub defer: Vec<PartitionType>,
    /// Discard the ranges of new partitions before they are filled.
    pub discard: bool,
    /// Differences from systemd-repart.
    pub deviations: Deviations,
}

impl Policy {
    /// The agent's: extend an existing table, all deviations on.
    #[must_use]
    pub fn new(seed: Guid, entropy: Guid) -> Self {
        Self {
            seed,
            entropy,
            empty: EmptyMode::Refuse,
            factory_reset: false,
            dry_run: false,
            grain: 4096,
            fs_sector_size: 4096,
            defer: Vec::new(),
            discard: true,
            deviations: Deviations::ALL,
        }
    }
}
