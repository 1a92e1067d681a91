//! The session keyring, which unlike the thread and process keyrings survives `exec`.

use std::io;

/// Gives this process a new, empty session keyring, so that the next program inherits no key of ours (`spec/trust.md` 9.2).
/// A kernel without keyrings has nothing to leave behind: that is no error.
pub fn new_session() -> io::Result<()> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring; no memory is read or written.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            anonymous,
        )
    };
    if answer >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOSYS) {
        Ok(())
    } else {
        Err(error)
    }
}
