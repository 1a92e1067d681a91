//! `mount_setattr` (Linux 5.12), which rustix lacks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets and clears `MOUNT_ATTR_*` bits of the mount `mount` refers to, and of all below it if `recursive`.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    recursive: bool,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let path = c"".as_ptr();
    // SAFETY: `path` is a static string; `attr` lives through the call, and its true size is passed.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            path,
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
