//! Process-wide state, so one test function in one process.
#![expect(clippy::unwrap_used, reason = "a test may")]
#![expect(
    clippy::zombie_processes,
    reason = "the child is reaped by the function under test"
)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};
use rustix::process::{Resource, getrlimit, setrlimit};
use sys::process::{Inherited, Reaped, close_on_exec_from, default_signals, reap};
use sys::{keyring, memory};

fn status(key: &str) -> String {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    text.lines()
        .find_map(|l| l.strip_prefix(key))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn what_a_successor_gets_is_as_the_kernel_gave_it() {
    // Limits and umask.
    let inherited = Inherited::capture();
    let (limit, mask) = (getrlimit(Resource::Core), status("Umask:"));
    setrlimit(
        Resource::Core,
        rustix::process::Rlimit {
            current: Some(0),
            maximum: limit.maximum,
        },
    )
    .unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o057));
    assert_eq!(status("Umask:"), "0057");
    inherited.restore().unwrap();
    assert_eq!(getrlimit(Resource::Core), limit);
    assert_eq!(status("Umask:"), mask);

    // Signals: the Rust runtime ignores SIGPIPE (13).
    assert_ne!(
        u64::from_str_radix(&status("SigIgn:"), 16).unwrap() & (1 << 12),
        0
    );
    default_signals().unwrap();
    assert_eq!(u64::from_str_radix(&status("SigIgn:"), 16).unwrap(), 0);
    assert_eq!(u64::from_str_radix(&status("SigBlk:"), 16).unwrap(), 0);

    // Descriptors: one that a child would get is none any more, and is still ours.
    // High up, where `ls` itself has none.
    let leak = fcntl_dupfd_cloexec(File::open("/dev/null").unwrap(), 100).unwrap();
    fcntl_setfd(&leak, FdFlags::empty()).unwrap();
    close_on_exec_from(3).unwrap();
    assert_eq!(fcntl_getfd(&leak).unwrap(), FdFlags::CLOEXEC);
    let seen = Command::new("ls").arg("/proc/self/fd").output().unwrap();
    let seen = String::from_utf8(seen.stdout).unwrap();
    assert!(
        !seen.lines().any(|fd| fd == leak.as_raw_fd().to_string()),
        "{seen}"
    );

    // Memory and keys.
    memory::forbid_dumps().unwrap();
    let before = fs::read_to_string("/proc/keys").unwrap_or_default();
    keyring::new_session().unwrap();
    let after = fs::read_to_string("/proc/keys").unwrap_or_default();
    assert!(
        before.is_empty() || before != after,
        "the session keyring is the old one"
    );

    // Children: nobody; one running; one ended.
    assert_eq!(
        reap().unwrap(),
        Reaped {
            ended: 0,
            running: false
        }
    );
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    assert_eq!(
        reap().unwrap(),
        Reaped {
            ended: 0,
            running: true
        }
    );
    drop(child.stdin.take());
    let mut found = reap().unwrap();
    while found.running {
        found = reap().unwrap();
    }
    assert_eq!(
        found,
        Reaped {
            ended: 1,
            running: false
        }
    );
}
