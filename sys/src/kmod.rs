//! Putting one module file into the kernel.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h (Linux 5.17, CONFIG_MODULE_DECOMPRESS).
const COMPRESSED_FILE: i32 = 4;

/// Loads the module file `module` with `parameters` (`name=value` separated by blanks).
/// `compressed`: let the kernel decompress it (xz or zstd, whichever it was built with).
/// `EEXIST`: already loaded. `ENOENT`: a symbol is missing, that is a dependency. `EKEYREJECTED`: signature.
pub fn load(module: BorrowedFd<'_>, parameters: &CStr, compressed: bool) -> io::Result<()> {
    let flags = if compressed { COMPRESSED_FILE } else { 0 };
    Ok(rustix::system::finit_module(module, parameters, flags)?)
}
