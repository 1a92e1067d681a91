//! Swap areas.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// linux/swap.h
const SWAP_FLAG_DISCARD: libc::c_int = 0x10000;
const SWAP_FLAG_DISCARD_ONCE: libc::c_int = 0x20000;

/// Which freed swap pages the device is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// None.
    Never,
    /// The whole area once, when it is switched on.
    Once,
    /// The whole area at first, then pages as they are freed. Shows an attacker which blocks of an encrypted area are in use.
    Always,
}

/// Starts swapping to `area`, a device or file with a swap header.
pub fn on(area: &Path, discard: Discard) -> io::Result<()> {
    let path = CString::new(area.as_os_str().as_bytes())?;
    let flags = match discard {
        Discard::Never => 0,
        Discard::Once => SWAP_FLAG_DISCARD | SWAP_FLAG_DISCARD_ONCE,
        Discard::Always => SWAP_FLAG_DISCARD,
    };
    // SAFETY: `path` is NUL-terminated and lives through the call.
    let answer = unsafe { libc::swapon(path.as_ptr(), flags) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Stops swapping to `area`, moving what is there back into memory.
pub fn off(area: &Path) -> io::Result<()> {
    let path = CString::new(area.as_os_str().as_bytes())?;
    // SAFETY: `path` is NUL-terminated and lives through the call.
    let answer = unsafe { libc::swapoff(path.as_ptr()) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
