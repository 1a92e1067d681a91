//! What people and tests see: lines and cards on every console of the kernel, and the same in the kernel log.
//!
//! Owns: the documented markers (`CONTRACT` section 3). A line goes to each console directly, so that `quiet` cannot
//! hide it, and to `/dev/kmsg` at priority 7 (debug), which the kernel logs but does not print a second time at its
//! default console level (Documentation/admin-guide/kernel-parameters.rst, `loglevel`).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The consoles of the kernel and its log.
#[derive(Debug, Default)]
pub struct Console {
    screens: Vec<File>,
    log: Option<File>,
}

/// `O_NOCTTY | O_NONBLOCK`: a console must neither become our terminal nor stop the boot when nobody reads it.
const OPEN_FLAGS: u32 = rustix::fs::OFlags::NOCTTY
    .union(rustix::fs::OFlags::NONBLOCK)
    .bits();

impl Console {
    /// Opens the consoles named in `/sys/class/tty/console/active`, or `/dev/console` when that can't be read.
    #[must_use]
    pub fn open(root: &Path) -> Self {
        let active =
            std::fs::read_to_string(root.join("sys/class/tty/console/active")).unwrap_or_default();
        let mut screens: Vec<File> = active
            .split_whitespace()
            .filter_map(|name| open(&root.join("dev").join(name)))
            .collect();
        if screens.is_empty() {
            screens.extend(open(&root.join("dev/console")));
        }
        Self {
            screens,
            log: open(&root.join("dev/kmsg")),
        }
    }

    /// One line on every console and in the kernel log.
    pub fn line(&mut self, text: &str) {
        self.show(text);
        self.log(text);
    }

    /// Text of several lines, consoles only.
    pub fn show(&mut self, text: &str) {
        let mut bytes = Vec::with_capacity(text.len() + 8);
        for line in text.lines() {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        for screen in &mut self.screens {
            write_patiently(screen, &bytes);
        }
    }

    /// One record in the kernel log only.
    pub fn log(&mut self, text: &str) {
        if let Some(log) = &mut self.log {
            for line in text.lines() {
                // The kernel log takes one record a write; a full or absent log must not stop the boot.
                drop(log.write_all(format!("<7>{line}\n").as_bytes()));
            }
        }
    }
}

fn open(path: &Path) -> Option<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(OPEN_FLAGS.cast_signed())
        .open(path)
        .ok()
}

/// Writes to a non-blocking terminal; gives up on one that takes nothing for a second.
fn write_patiently(screen: &mut File, mut bytes: &[u8]) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    while !bytes.is_empty() {
        match screen.write(bytes) {
            Ok(0) => return,
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut waiting = [PollFd::new(&*screen, PollFlags::OUT)];
                if !matches!(poll(&mut waiting, Some(&patience)), Ok(1..)) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_line_reaches_every_console_and_the_log() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("sys/class/tty/console")).unwrap();
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        std::fs::write(
            dir.path().join("sys/class/tty/console/active"),
            "tty0 ttyS0\n",
        )
        .unwrap();
        for name in ["tty0", "ttyS0", "kmsg"] {
            std::fs::write(dir.path().join("dev").join(name), "").unwrap();
        }
        Console::open(dir.path()).line("initrd-agent: hello");
        for name in ["tty0", "ttyS0"] {
            let text = std::fs::read_to_string(dir.path().join("dev").join(name)).unwrap();
            assert_eq!(text, "initrd-agent: hello\r\n");
        }
        assert_eq!(
            std::fs::read_to_string(dir.path().join("dev/kmsg")).unwrap(),
            "<7>initrd-agent: hello\n"
        );
    }

    #[test]
    fn no_console_at_all_is_survived() {
        let dir = tempfile::tempdir().unwrap();
        Console::open(dir.path()).line("nobody listens");
    }
}
