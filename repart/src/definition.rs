//! What a repart.d file says: one [`Definition`] a file, all of them in [`Definitions`] (spec 1).
//!
//! Invariant: a `Definition` that exists is consistent in itself; [`Definitions`] also among each other.

mod assign;
mod load;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::guid::Guid;
use crate::specifier::Specifiers;
use crate::types::{Architecture, Designator, PartitionType};

pub use load::{DirFiles, FileContent, Files};

/// All definitions in file-name order, and what was odd about them.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    /// In byte order of the file name.
    pub list: Vec<Definition>,
    /// Assignments that were ignored, unknown keys and sections.
    pub warnings: Vec<Warning>,
}

/// Something that was ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {text}", path.display())]
pub struct Warning {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1; 0 = the file as a whole.
    pub line: usize,
    /// What, and what happens now.
    pub text: String,
}

/// A set of partition types, as `--include-partitions=` and its siblings name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TypeFilter {
    /// Every definition counts.
    #[default]
    All,
    /// Only these.
    Include(Vec<PartitionType>),
    /// All but these.
    Exclude(Vec<PartitionType>),
}

impl TypeFilter {
    pub(crate) fn admits(&self, kind: &PartitionType) -> bool {
        match self {
            Self::All => true,
            Self::Include(list) => list.contains(kind),
            Self::Exclude(list) => !list.contains(kind),
        }
    }
}

/// What reading definitions depends on besides the files.
#[derive(Clone, Debug)]
pub struct LoadContext {
    /// What `root`, `usr`, … mean.
    pub architecture: Architecture,
    /// `--architecture=`: every type that has an architecture is moved to this one.
    pub remap: Option<Architecture>,
    /// Values of `%` specifiers.
    pub specifiers: Specifiers,
    /// Definitions of other types are read, but then as if absent.
    pub filter: TypeFilter,
}

impl Default for LoadContext {
    fn default() -> Self {
        Self {
            architecture: Architecture::native(),
            remap: None,
            specifiers: Specifiers::default(),
            filter: TypeFilter::All,
        }
    }
}

/// Why definitions cannot be used. Nothing is written in this case.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// A directory or file could not be read.
    #[error("cannot read definition {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An assignment that must not be ignored.
    #[error("{}:{line}: {text}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        text: String,
    },
    /// Keys that exclude each other, or a missing one.
    #[error("{}: {text}", path.display())]
    Conflict {
        /// The file.
        path: PathBuf,
        /// Which keys and why.
        text: String,
    },
}

/// `Format=`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the file systems")]
pub enum Format {
    Ext4,
    Btrfs,
    Xfs,
    Vfat,
    Swap,
    /// Nothing is written; the partition is marked no-auto.
    Empty,
    /// A file system we have no arguments for.
    Other(String),
}

impl Format {
    /// Name as in `Format=`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Ext4 => "ext4",
            Self::Btrfs => "btrfs",
            Self::Xfs => "xfs",
            Self::Vfat => "vfat",
            Self::Swap => "swap",
            Self::Empty => "empty",
            Self::Other(name) => name,
        }
    }

    /// Parses the value of `Format=`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "ext4" => Self::Ext4,
            "btrfs" => Self::Btrfs,
            "xfs" => Self::Xfs,
            "vfat" => Self::Vfat,
            "swap" => Self::Swap,
            "empty" => Self::Empty,
            other => Self::Other(other.to_owned()),
        }
    }

    /// squashfs and erofs cannot be written to once made.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self.name(), "squashfs" | "erofs")
    }
}

/// `Encrypt=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are those of the values")]
pub enum Encrypt {
    #[default]
    Off,
    KeyFile,
    Tpm2,
    KeyFileTpm2,
}

/// `Verity=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are those of the values")]
pub enum Verity {
    #[default]
    Off,
    Data,
    Hash,
    Signature,
}

/// `CopyBlocks=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyBlocks {
    /// The device behind the matching mount of the running system.
    Auto,
    /// Absolute path below the root.
    Path(PathBuf),
}

/// One word of `CopyFiles=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFiles {
    /// Absolute, below the source root.
    pub source: PathBuf,
    /// Absolute, in the new file system.
    pub target: PathBuf,
    /// What follows the second colon, as written.
    pub options: String,
}

/// One word of `Subvolumes=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subvolume {
    /// Absolute, in the new file system.
    pub path: PathBuf,
    /// `ro`.
    pub read_only: bool,
    /// `nodatacow`.
    pub no_data_cow: bool,
}

/// What goes into a new partition (spec 1.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the keys")]
pub struct Content {
    pub format: Option<Format>,
    pub encrypt: Encrypt,
    pub copy_blocks: Option<CopyBlocks>,
    /// Bytes `copy_blocks` will give; found by the caller before planning.
    pub copy_blocks_size: Option<u64>,
    /// `CopyBlocks=auto`: UUID of the source partition, found by the caller; taken over unless `UUID=` is set.
    pub copy_blocks_uuid: Option<Guid>,
    pub copy_files: Vec<CopyFiles>,
    pub exclude_files: Vec<PathBuf>,
    pub exclude_files_target: Vec<PathBuf>,
    pub make_directories: Vec<PathBuf>,
    /// Path and target.
    pub make_symlinks: Vec<(PathBuf, PathBuf)>,
    pub subvolumes: Vec<Subvolume>,
    pub default_subvolume: Option<PathBuf>,
    pub volume_label: Option<String>,
    pub volume_name: Option<String>,
    pub key_file: Option<PathBuf>,
    pub tpm2_pcrs: Option<String>,
    pub encrypt_kdf: Option<String>,
    pub discard: Option<bool>,
    pub file_system_sector_size: Option<u64>,
    pub add_validate_fs: Option<bool>,
    /// `MountPoint=` without its options; only for `AddValidateFS=`.
    pub mount_points: Vec<String>,
    pub verity: Verity,
    pub verity_match_key: Option<String>,
    /// Keys that were set and that nothing here reads: they serve options for building images.
    pub without_effect: Vec<String>,
    /// Keys that only make sense when an image is built; named when a new partition would need them.
    pub build_only: Vec<String>,
}

impl Content {
    /// Something has to be written into a new partition.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.format
            .as_ref()
            .is_some_and(|format| *format != Format::Empty)
            || self.encrypt != Encrypt::Off
            || self.copy_blocks.is_some()
    }
}

/// `X-Integrity=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the values")]
pub enum Integrity {
    Tpm2,
}

/// `X-RecoveryKey=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the values")]
pub enum RecoveryKey {
    Show,
    Escrow,
    Off,
}

/// `X-OnCorruption=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the values")]
pub enum OnCorruption {
    Fail,
    Recreate,
}

/// `X-WithoutTPM=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the values")]
pub enum WithoutTpm {
    Refuse,
    Passphrase,
    KeyFile,
}

/// The keys systemd ignores and this project reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnKeys {
    /// `X-Integrity=`.
    pub integrity: Option<Integrity>,
    /// `X-RecoveryKey=`.
    pub recovery_key: Option<RecoveryKey>,
    /// `X-OnCorruption=`.
    pub on_corruption: Option<OnCorruption>,
    /// `X-WithoutTPM=`.
    pub without_tpm: Option<WithoutTpm>,
    /// Every other `X-` key, last value.
    pub other: BTreeMap<String, String>,
}

/// One definition file with its drop-ins.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The file.
    pub path: PathBuf,
    /// Drop-ins in the order they were applied.
    pub drop_ins: Vec<PathBuf>,
    /// `Type=`.
    pub partition_type: PartitionType,
    /// `Label=`, expanded; `Some("")` means an empty label.
    pub label: Option<String>,
    /// `UUID=`; `Some(Guid::NULL)` for `null`, `None` = derived.
    pub uuid: Option<Guid>,
    /// `Priority=`.
    pub priority: i32,
    /// `Weight=`.
    pub weight: u32,
    /// `PaddingWeight=`.
    pub padding_weight: u32,
    /// `SizeMinBytes=`, rounded up to 4096.
    pub size_min: Option<u64>,
    /// `SizeMaxBytes=`, rounded down to 4096.
    pub size_max: Option<u64>,
    /// `PaddingMinBytes=`, rounded up to 4096.
    pub padding_min: Option<u64>,
    /// `PaddingMaxBytes=`, rounded down to 4096.
    pub padding_max: Option<u64>,
    /// `FactoryReset=`.
    pub factory_reset: bool,
    /// `Flags=`: raw attributes of a new entry.
    pub flags: u64,
    /// `NoAuto=`.
    pub no_auto: Option<bool>,
    /// `ReadOnly=`.
    pub read_only: Option<bool>,
    /// `GrowFileSystem=`.
    pub grow_file_system: Option<bool>,
    /// `SupplementFor=`: file name without `.conf`.
    pub supplement_for: Option<String>,
    /// What goes in.
    pub content: Content,
    /// Our own keys.
    pub own: OwnKeys,
}

const NO_AUTO: u64 = 1 << 63;
const READ_ONLY: u64 = 1 << 60;
const GROW_FILE_SYSTEM: u64 = 1 << 59;

impl Definition {
    fn new(path: PathBuf, partition_type: PartitionType) -> Self {
        Self {
            path,
            drop_ins: Vec::new(),
            partition_type,
            label: None,
            uuid: None,
            priority: 0,
            weight: 1000,
            padding_weight: 0,
            size_min: None,
            size_max: None,
            padding_min: None,
            padding_max: None,
            factory_reset: false,
            flags: 0,
            no_auto: None,
            read_only: None,
            grow_file_system: None,
            supplement_for: None,
            content: Content::default(),
            own: OwnKeys::default(),
        }
    }

    /// The file's name without `.conf`: what `SupplementFor=` names.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default()
    }

    /// Attributes of a new entry (spec 1.4).
    #[must_use]
    pub fn attributes(&self) -> u64 {
        let kind = &self.partition_type;
        let read_only = self.read_only.or_else(|| {
            let implied =
                kind.is_verity() || matches!(self.content.verity, Verity::Data | Verity::Signature);
            implied.then_some(true)
        });
        let no_auto = self
            .no_auto
            .or_else(|| (self.content.format == Some(Format::Empty)).then_some(true));
        let grow = if read_only == Some(true) {
            self.grow_file_system
        } else {
            Some(true)
        };
        let mut flags = self.flags;
        for (bit, known, wanted) in [
            (NO_AUTO, kind.knows_no_auto(), no_auto),
            (READ_ONLY, kind.knows_read_only(), read_only),
            (GROW_FILE_SYSTEM, kind.knows_growfs(), grow),
        ] {
            match wanted {
                Some(true) if known => flags |= bit,
                Some(false) if known => flags &= !bit,
                _ => {}
            }
        }
        flags
    }

    /// Smallest size of a file system of this format (spec 2.3), `None` if unknown.
    #[must_use]
    pub fn file_system_minimum(&self, sector_size: u64) -> Option<u64> {
        const MIB: u64 = 1 << 20;
        match self.content.format.as_ref()? {
            Format::Ext4 => Some(32 * MIB),
            Format::Btrfs => Some(256 * MIB),
            Format::Xfs => Some(300 * MIB),
            Format::Vfat
                if matches!(
                    self.partition_type.designator(),
                    Designator::Esp | Designator::Xbootldr
                ) =>
            {
                Some(
                    if self.content.file_system_sector_size.unwrap_or(sector_size) >= 4096 {
                        260
                    } else {
                        100
                    } * MIB,
                )
            }
            _ => None,
        }
    }
}
