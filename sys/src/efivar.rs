//! The immutable flag that efivarfs puts on variables, so that `rm -rf /` does not brick firmware.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Clears the immutable flag of an open efivarfs file. Returns whether it was set.
/// The file may be open read-only; a file system without inode flags answers `ENOTTY`, which counts as not set.
pub fn make_mutable(variable: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = match ioctl_getflags(variable) {
        Err(rustix::io::Errno::NOTTY) => return Ok(false),
        other => other?,
    };
    if !flags.contains(IFlags::IMMUTABLE) {
        return Ok(false);
    }
    ioctl_setflags(variable, flags - IFlags::IMMUTABLE)?;
    Ok(true)
}
