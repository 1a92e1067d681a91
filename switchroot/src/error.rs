//! What can go wrong, by operation.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// One try to mount a device as one type of file system.
#[derive(Debug)]
pub struct Attempt {
    /// The type tried.
    pub fstype: String,
    /// What the kernel wrote about it (its file system context log), lines joined by `; `; may be empty.
    pub log: String,
    /// The error number.
    pub error: io::Error,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.fstype, self.error)?;
        if self.error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) {
            write!(
                f,
                " (this kernel does not know the type, its module is missing)"
            )?;
        }
        if self.log.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", self.log)
        }
    }
}

/// Errors of this library; each names the operation and what it was done to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No file system type fitted.
    #[error("cannot mount {}: {}", device.display(), join(attempts))]
    Mount {
        /// The device, or the name of the type for a virtual file system.
        device: PathBuf,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// The device carries no file system that is known here, and no type was given.
    #[error("no known file system on {}", device.display())]
    UnknownFileSystem {
        /// The device.
        device: PathBuf,
    },
    /// Reading a device's first blocks.
    #[error("cannot read the file system type of {}", device.display())]
    Probe {
        /// The device.
        device: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One step of building a tree.
    #[error("cannot {step}")]
    Step {
        /// The step, as it prints.
        step: String,
        /// Why.
        source: io::Error,
    },
    /// Making the tree visible at the staging directory.
    #[error("cannot attach the new root at {}", at.display())]
    Attach {
        /// The staging directory.
        at: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The new root has no `etc/os-release` or `usr/lib/os-release`.
    #[error(
        "the new root is no operating system tree: it has neither etc/os-release nor usr/lib/os-release"
    )]
    NotAnOsTree,
    /// None of the candidates can be the new PID 1.
    #[error("no init to run in the new root: {}", refused.join("; "))]
    NoInit {
        /// Each candidate with the reason.
        refused: Vec<String>,
    },
}

fn join(attempts: &[Attempt]) -> String {
    attempts
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// What failed in [`crate::handover`].
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Before anything was changed, or with the changes undone: the initramfs works as before.
    #[error("cannot {operation}")]
    Intact {
        /// What was being done.
        operation: String,
        /// Why.
        source: io::Error,
    },
    /// The new root is already at `/`: only a reboot is left.
    #[error("cannot {operation} after the new root was moved to /")]
    Committed {
        /// What was being done.
        operation: String,
        /// Why.
        source: io::Error,
    },
}
