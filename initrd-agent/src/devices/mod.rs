//! From a kernel that knows its buses to block devices that can be opened: modules, events, disks.
//!
//! Invariant: nothing here sleeps. Whoever waits is woken by an event of the kernel or by a deadline, and at the
//! deadline is told what was there instead. All paths are below a root directory that the caller gives.

pub mod alias;
pub mod coldplug;
pub mod disks;
pub mod error;
pub mod modules;

pub use coldplug::Devices;
pub use disks::{Disk, Partition};
pub use error::DevicesError;
pub use modules::{Load, LoadError, Modules};

#[cfg(test)]
mod tests;
