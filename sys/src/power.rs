//! Ending the machine's run. The callers sync first.

use std::io;

use rustix::system::{RebootCommand, reboot};

/// How a machine's run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Start again.
    Reboot,
    /// Switch off.
    PowerOff,
    /// Stop, and stay on with what the screen shows.
    Halt,
}

/// Ends it. Returns only when refused, and for `Halt` never in PID 1.
pub fn end(how: End) -> io::Result<()> {
    let command = match how {
        End::Reboot => RebootCommand::Restart,
        End::PowerOff => RebootCommand::PowerOff,
        End::Halt => RebootCommand::Halt,
    };
    Ok(reboot(command)?)
}

/// Writes all dirty data of all file systems.
pub fn sync() {
    rustix::fs::sync();
}
