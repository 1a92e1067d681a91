//! Why nothing, or not everything, was installed.

use std::io;
use std::path::PathBuf;

use repart::{ApplyError, DefinitionError, ObserveError, PlanError};

use super::fat::FatError;

/// One failure of `initrd-agent install`.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The command line.
    #[error("{0}; see initrd-agent install --help")]
    Usage(String),
    /// A disk or image could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its table could not be read.
    #[error("cannot look at {disk}")]
    Observe {
        /// Which.
        disk: String,
        /// Why.
        source: ObserveError,
    },
    /// Something else could not be done.
    #[error("cannot {what}")]
    Io {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to install on the source.
    #[error("{disk} cannot be installed from: {why}")]
    Source {
        /// The source.
        disk: String,
        /// What it lacks.
        why: String,
    },
    /// A definition cannot be used.
    #[error("the definitions cannot be used")]
    Definitions(#[from] DefinitionError),
    /// The target is the disk that is in use.
    #[error("{disk} carries the running system ({what}); nothing was written")]
    OwnDisk {
        /// The target.
        disk: String,
        /// What is on it.
        what: String,
    },
    /// The target is not a whole disk.
    #[error("{} is a partition; install takes the whole disk", path.display())]
    Partition {
        /// The target.
        path: PathBuf,
    },
    /// A partition that would be changed is in use.
    #[error(
        "partition {number} would get files but is mounted at {place}; unmount it; nothing was written"
    )]
    Mounted {
        /// Its number.
        number: u32,
        /// Where.
        place: String,
    },
    /// No table, but not empty either.
    #[error(
        "{disk} has no GPT but is not empty (byte {offset} is not zero): make a table, or clear it with wipefs; nothing was written"
    )]
    NotBlank {
        /// The target.
        disk: String,
        /// The first byte that is not zero.
        offset: u64,
    },
    /// No set of definitions fits.
    #[error("nothing fits on {disk}; nothing was written{}", listed(reasons))]
    NothingFits {
        /// The target.
        disk: String,
        /// One for each set.
        reasons: Vec<Refusal>,
    },
    /// A partition that carries our UUID has other content.
    #[error(
        "partition {number} has UUID {uuid} like the one to install, but byte {offset} of it differs: it is damaged; delete it to have it installed anew; nothing was written"
    )]
    Differs {
        /// Its number.
        number: u32,
        /// The UUID of both.
        uuid: String,
        /// The first block that differs, bytes from its start.
        offset: u64,
    },
    /// The disk holds something, and nobody said yes.
    #[error(
        "{disk} holds {count} partitions of other systems, which will be kept; say --yes to install beside them; nothing was written"
    )]
    Unconfirmed {
        /// The target.
        disk: String,
        /// How many.
        count: usize,
    },
    /// Asked, and the answer was not yes.
    #[error("not confirmed; nothing was written")]
    Declined,
    /// Data or table could not be written.
    #[error("the installation failed")]
    Apply(#[from] ApplyError),
    /// The partitions are in place, the boot files are not.
    #[error(
        "the partitions are installed, but the boot files of partition {number} are not; install again once the cause is gone"
    )]
    Files {
        /// The ESP or XBOOTLDR.
        number: u32,
        /// Why.
        source: FatError,
    },
}

impl InstallError {
    /// The tool's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }

    /// For `map_err`: what was being done.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Why one set of definitions cannot be used on this disk.
#[derive(Debug, thiserror::Error)]
#[error("{set}: {why}")]
pub struct Refusal {
    /// Where the set comes from.
    pub set: String,
    /// With numbers.
    pub why: Box<Unfit>,
}

/// What does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// There is no sound table.
    #[error("{0}")]
    Plan(#[from] PlanError),
    /// Boot files.
    #[error(
        "partition {number}{} ({size} bytes) has {free} bytes free for boot files, {need} are needed for {files} files",
        called(label)
    )]
    Files {
        /// Its number.
        number: u32,
        /// Its label.
        label: String,
        /// Its size.
        size: u64,
        /// Bytes free in its file system.
        free: u64,
        /// Bytes needed in whole clusters, directories included.
        need: u64,
        /// How many.
        files: usize,
    },
    /// A definition asks for more than the partition has.
    #[error(
        "partition {number}{} has {size} bytes and {path} asks for {need}; an installer does not grow what others made",
        called(label)
    )]
    Small {
        /// Its number.
        number: u32,
        /// Its label.
        label: String,
        /// Bytes it has.
        size: u64,
        /// The definition.
        path: String,
        /// Bytes asked for.
        need: u64,
    },
    /// A volume that has to take files.
    #[error(
        "partition {number}{} ({size} bytes) has to take boot files",
        called(label)
    )]
    Volume {
        /// Its number.
        number: u32,
        /// Its label.
        label: String,
        /// Its size.
        size: u64,
        /// Why it cannot.
        source: FatError,
    },
    /// What the definitions lack, or have too much of.
    #[error("{0}")]
    Definitions(String),
}

/// Partitions need not have a label.
fn called(label: &str) -> String {
    if label.is_empty() {
        String::new()
    } else {
        format!(" \"{label}\"")
    }
}

fn listed(reasons: &[Refusal]) -> String {
    reasons
        .iter()
        .map(|refusal| format!("\n  {}", chain(refusal)))
        .collect()
}

fn chain(refusal: &Refusal) -> String {
    let mut text = refusal.to_string();
    let mut cause = std::error::Error::source(&*refusal.why);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
