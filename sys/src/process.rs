//! What a process hands to its successor: descriptors, signals, limits, children.

use std::io;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, WaitOptions, getrlimit, setrlimit, umask, wait};

/// Marks every descriptor from `first` on close-on-exec (Linux 5.11). Nothing is closed: a failed `exec` loses nothing.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: with CLOSE_RANGE_CLOEXEC no descriptor is closed, so nobody's ownership is broken.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets every signal to its default action and unblocks all; to be called right before `exec`, which resets handlers by
/// itself, but neither ignored signals (the Rust runtime ignores SIGPIPE) nor the mask. Goes past glibc, which would leave
/// out the two signals it keeps for its threads.
pub fn default_signals() -> io::Result<()> {
    // The kernel's struct sigaction: handler (SIG_DFL is 0), flags, restorer, mask.
    let default = [0_usize; 4];
    for signal in 1..=64_usize {
        let (new, old) = (default.as_ptr(), std::ptr::null_mut::<usize>());
        // SAFETY: `new` is a whole sigaction and lives through the call; a null old one is allowed; 8 is the mask's size.
        // The default action runs no code of ours. KILL and STOP are refused, which is as well.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, size_of::<u64>()) };
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: `none` was initialised above; a null old set is allowed.
    let answer =
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets this thread and its later children run before everything of ordinary priority (`true`, sched(7): round robin at
/// the lowest real-time priority), or takes that back.
pub fn run_first(urgent: bool) -> io::Result<()> {
    let (policy, priority) = if urgent {
        (libc::SCHED_RR, 1)
    } else {
        (libc::SCHED_OTHER, 0)
    };
    let parameter = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: `parameter` lives through the call; 0 is the calling thread.
    let answer = unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What the kernel gave this process and a successor is to get again: resource limits and umask.
#[derive(Clone, Debug)]
pub struct Inherited {
    limits: Vec<(Resource, Rlimit)>,
    umask: u32,
}

impl Inherited {
    /// Reads them; to be called before the first change.
    #[must_use]
    pub fn capture() -> Self {
        let limits = RESOURCES.iter().map(|&r| (r, getrlimit(r))).collect();
        let mask = umask(Mode::from_raw_mode(0o022));
        umask(mask);
        Self {
            limits,
            umask: mask.as_raw_mode(),
        }
    }

    /// Puts back those that differ.
    pub fn restore(&self) -> io::Result<()> {
        umask(Mode::from_raw_mode(self.umask));
        for (resource, limit) in &self.limits {
            if getrlimit(*resource) != *limit {
                setrlimit(*resource, *limit)?;
            }
        }
        Ok(())
    }
}

const RESOURCES: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// What [`reap`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Children that had ended and are now gone.
    pub ended: usize,
    /// Whether children are still running.
    pub running: bool,
}

/// Collects every child that has ended, without waiting: orphans become PID 1's children.
/// Takes the exit status away from a `std::process::Child` that is still waited for, so call it between programs only.
pub fn reap() -> io::Result<Reaped> {
    let mut ended = 0;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => ended += 1,
            Ok(None) => {
                return Ok(Reaped {
                    ended,
                    running: true,
                });
            }
            Err(Errno::CHILD) => {
                return Ok(Reaped {
                    ended,
                    running: false,
                });
            }
            Err(Errno::INTR) => {}
            Err(other) => return Err(other.into()),
        }
    }
}
