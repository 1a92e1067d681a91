//! One child process under a deadline.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::FormatError;

/// How much of the end of stderr is kept.
const TAIL: usize = 2048;

pub(super) fn run(
    program: &Path,
    arguments: &[OsString],
    environment: &[(&'static str, String)],
    device: &Path,
    deadline: Duration,
) -> Result<(), FormatError> {
    let fail = |source| FormatError::Run {
        program: program.to_owned(),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(
            environment
                .iter()
                .map(|(key, value)| (*key, value.as_str())),
        )
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let mut tail = Vec::new();
    let ended = watch(&mut child, &mut tail, Instant::now() + deadline);
    if !matches!(ended, Ok(Some(_))) {
        // The child may have ended by itself in between; then there is nothing to kill.
        drop(child.kill());
        child.wait().map_err(fail)?;
    }
    let stderr = String::from_utf8_lossy(&tail).trim().replace('\n', " | ");
    let (program, device) = (program.to_owned(), device.to_owned());
    match ended {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(FormatError::Failed {
            program,
            device,
            status,
            stderr,
        }),
        Ok(None) => Err(FormatError::Deadline {
            program,
            device,
            deadline,
            stderr,
        }),
        Err(source) => Err(FormatError::Run { program, source }),
    }
}

/// What a program says of itself under `--help`, from either stream.
pub(super) fn help(program: &Path) -> Result<String, FormatError> {
    let fail = |source| FormatError::Run {
        program: program.to_owned(),
        source,
    };
    let (mut reader, writer) = io::pipe().map_err(fail)?;
    let mut child = Command::new(program)
        .arg("--help")
        .env_clear()
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(fail)?)
        .stderr(writer)
        .spawn()
        .map_err(fail)?;
    let mut text = String::new();
    let read = reader.read_to_string(&mut text);
    child.wait().map_err(fail)?;
    read.map_err(fail)?;
    Ok(text)
}

/// Collects stderr until the child ends; `None` if the deadline comes first.
fn watch(child: &mut Child, tail: &mut Vec<u8>, until: Instant) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut stderr = child.stderr.take();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let (ended, readable) = {
            let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
            if let Some(pipe) = &stderr {
                fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
            }
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            (
                !fds[0].revents().is_empty(),
                fds.get(1).is_some_and(|fd| !fd.revents().is_empty()),
            )
        };
        if readable && !collect(stderr.as_mut(), tail)? {
            stderr = None;
        } else if ended && !readable {
            return child.wait().map(Some);
        }
    }
}

/// One read; false at the end.
fn collect(pipe: Option<&mut ChildStderr>, tail: &mut Vec<u8>) -> io::Result<bool> {
    let Some(pipe) = pipe else { return Ok(false) };
    let mut buffer = [0; 4096];
    let count = pipe.read(&mut buffer)?;
    tail.extend_from_slice(&buffer[..count]);
    let excess = tail.len().saturating_sub(TAIL);
    tail.drain(..excess);
    Ok(count > 0)
}
