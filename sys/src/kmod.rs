//! Putting one module file into the kernel.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h (Linux 5.17, CONFIG_MODULE_DECOMPRESS).
const COMPRESSED_FILE: i32 = 4;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is loaded.
    Loaded,
    /// A module of this name was loaded before.
    Present,
    /// It found nothing it is for, and went away again.
    NoDevice,
}

/// Loads the module file `module` with `parameters` (`name=value` separated by blanks).
/// `compressed`: let the kernel decompress it (xz or zstd, whichever it was built with).
/// `ENOENT`: a symbol is missing, that is a dependency. `EKEYREJECTED`: its signature. `EOPNOTSUPP`: it cannot decompress.
pub fn load(module: BorrowedFd<'_>, parameters: &CStr, compressed: bool) -> io::Result<Outcome> {
    let flags = if compressed { COMPRESSED_FILE } else { 0 };
    match rustix::system::finit_module(module, parameters, flags) {
        Ok(()) => Ok(Outcome::Loaded),
        Err(Errno::EXIST) => Ok(Outcome::Present),
        Err(Errno::NODEV) => Ok(Outcome::NoDevice),
        Err(other) => Err(other.into()),
    }
}
