//! What can go wrong while devices come up, by operation.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Errors of this module. That a single module cannot be loaded is none: see [`super::LoadError`].
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// The initrd was packed for another kernel.
    #[error("the initrd has no modules for the running kernel {release}, only for {}", found.join(", "))]
    OtherKernel {
        /// The running kernel.
        release: String,
        /// The versions there are.
        found: Vec<String>,
    },
    /// Reading a module index or a directory of /sys.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket for the kernel's device events.
    #[error("cannot {operation} the kernel's device events")]
    Events {
        /// What was being done.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Opening a device node.
    #[error("cannot open {}", node.display())]
    Open {
        /// The node.
        node: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The node is not the device that /sys describes.
    #[error("{} is not the device {}:{} that the kernel calls so", node.display(), expected.0, expected.1)]
    OtherDevice {
        /// The node.
        node: PathBuf,
        /// Major and minor number expected.
        expected: (u32, u32),
    },
    /// What was waited for did not appear.
    #[error("{wanted} did not appear within {:.1} s; seen instead: {seen}", waited.as_secs_f64())]
    Deadline {
        /// What was waited for.
        wanted: String,
        /// What there is.
        seen: String,
        /// How long.
        waited: Duration,
    },
}
