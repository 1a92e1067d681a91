//! What can go wrong while a machine runs, with enough of the console to act on it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An operation of the harness that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory of the machine could not be used.
    #[error("{what} {}", path.display())]
    File {
        /// The verb, as in "create".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A program is missing or could not be started.
    #[error("start {program} (is its package installed?)")]
    Start {
        /// The program.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// A program ran and refused.
    #[error("{program} failed: {stderr}")]
    Program {
        /// The command line.
        program: String,
        /// The end of what it said.
        stderr: String,
    },
    /// A program said something that we cannot read.
    #[error("{program} answered what we do not understand: {answer}")]
    Answer {
        /// The program.
        program: String,
        /// The answer.
        answer: String,
    },
    /// None of the firmware files known on Debian is there.
    #[error("no UEFI firmware, looked for {looked:?}: install ovmf")]
    NoFirmware {
        /// Where we looked.
        looked: &'static [&'static str],
    },
    /// None of the markers came in time.
    #[error("no {markers:?} on the console within {deadline:?}; log {}; its end:\n{tail}", log.display())]
    Timeout {
        /// What was waited for.
        markers: Vec<String>,
        /// For how long.
        deadline: Duration,
        /// The last console lines.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The machine stopped before any of the markers came.
    #[error("machine stopped before {markers:?}; log {}; its end:\n{tail}", log.display())]
    Stopped {
        /// What was waited for.
        markers: Vec<String>,
        /// The last console lines, then what QEMU itself said.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The guest's kernel crashed, or its firmware had nothing to start.
    #[error("guest crashed: {line}; log {}; its end:\n{tail}", log.display())]
    Crashed {
        /// The line that tells.
        line: String,
        /// The last console lines.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The machine still runs although it should have stopped by itself.
    #[error("machine still on after {deadline:?}; log {}; its end:\n{tail}", log.display())]
    StillOn {
        /// For how long it was waited.
        deadline: Duration,
        /// The last console lines.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// QEMU's control socket did not work.
    #[error("control socket: {what}")]
    Control {
        /// What was tried.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// What was built for the scenarios is missing or could not be made.
    #[error("prepare {what}: {why}")]
    Prepare {
        /// The thing.
        what: String,
        /// The chain of causes.
        why: String,
    },
    /// The machine did something else than the scenario expects.
    #[error("{0}")]
    Unexpected(String),
}

/// Result of an operation of the harness.
pub type Result<T> = std::result::Result<T, Error>;

/// The error and its causes on one line, for people.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// Shorthand for [`Error::File`] in `map_err`.
pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { what, path, source }
}

/// Makes sure that a file (or socket) is not there.
pub(crate) fn no_file(path: &Path) -> Result<()> {
    gone(std::fs::remove_file(path)).map_err(file("remove", path))
}

/// Makes sure that a directory is not there.
pub(crate) fn no_dir(path: &Path) -> Result<()> {
    gone(std::fs::remove_dir_all(path)).map_err(file("remove", path))
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
