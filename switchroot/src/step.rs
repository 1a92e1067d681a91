//! Building a tree: a list of steps that decides everything, and one interpreter that decides nothing.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::mount::{MoveMountFlags, move_mount};

use crate::beneath;
use crate::error::Error;
use crate::filesystem;
use crate::options::{Attributes, MountOptions};

/// What is mounted.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// A new file system without a device.
    Virtual {
        /// Its type.
        fstype: &'a str,
        /// Its options and attributes, as mount(8) takes them.
        options: &'a str,
    },
    /// A mount that exists already, detached or elsewhere in the tree, with all that is mounted below it.
    Mount {
        /// It.
        mount: BorrowedFd<'a>,
        /// Attributes it gets in addition.
        attributes: Attributes,
    },
}

/// One step. Paths are relative to the root of the tree and contain no symlink.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// A directory of this mode, unless something is there.
    Directory {
        /// Where.
        path: Cow<'a, Path>,
        /// Permission bits.
        mode: u32,
    },
    /// A symlink, unless something is there.
    Symlink {
        /// Where.
        path: Cow<'a, Path>,
        /// What it says.
        target: &'a str,
    },
    /// A mount on a directory, unless something is mounted there.
    Mount {
        /// Where.
        at: Cow<'a, Path>,
        /// What.
        what: Source<'a>,
    },
    /// A step that may fail.
    Optional(Box<Step<'a>>),
}

/// What became of a step.
#[derive(Debug)]
pub enum Outcome {
    /// It was as wanted.
    Unchanged,
    /// It was done.
    Changed,
    /// It was optional and cannot be done.
    Skipped(Error),
}

impl<'a> Step<'a> {
    /// A directory.
    #[must_use]
    pub fn directory(path: &'a str, mode: u32) -> Self {
        Self::Directory {
            path: Path::new(path).into(),
            mode,
        }
    }

    /// A symlink.
    #[must_use]
    pub fn symlink(path: &'a str, target: &'a str) -> Self {
        Self::Symlink {
            path: Path::new(path).into(),
            target,
        }
    }

    /// A mount of a new file system without a device.
    #[must_use]
    pub fn filesystem(at: &'a str, fstype: &'a str, options: &'a str) -> Self {
        Self::Mount {
            at: Path::new(at).into(),
            what: Source::Virtual { fstype, options },
        }
    }

    /// A mount of one that exists.
    #[must_use]
    pub fn mount(at: &'a Path, mount: BorrowedFd<'a>, attributes: Attributes) -> Self {
        Self::Mount {
            at: at.into(),
            what: Source::Mount { mount, attributes },
        }
    }

    /// The same, but a failure is only reported.
    #[must_use]
    pub fn optional(self) -> Self {
        Self::Optional(Box::new(self))
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, mode } => {
                write!(f, "make directory {} ({mode:04o})", path.display())
            }
            Self::Symlink { path, target } => {
                write!(f, "make symlink {} -> {target}", path.display())
            }
            Self::Mount {
                at,
                what: Source::Virtual { fstype, options },
            } => {
                write!(f, "mount {fstype} on {} ({options})", at.display())
            }
            Self::Mount {
                at,
                what: Source::Mount { .. },
            } => write!(f, "attach a mount at {}", at.display()),
            Self::Optional(step) => write!(f, "{step}"),
        }
    }
}

/// Does the steps in order below `root`; what is as wanted stays. Stops at the first failure that is not optional.
pub fn apply(root: BorrowedFd<'_>, steps: &[Step<'_>]) -> Result<Vec<Outcome>, Error> {
    steps.iter().map(|step| one(root, step)).collect()
}

fn one(root: BorrowedFd<'_>, step: &Step<'_>) -> Result<Outcome, Error> {
    let failed = |source| Error::Step {
        step: step.to_string(),
        source,
    };
    let changed = match step {
        Step::Directory { path, mode } => {
            beneath::make_directory(root, path, *mode).map_err(failed)?
        }
        Step::Symlink { path, target } => {
            beneath::make_symlink(root, path, target).map_err(failed)?
        }
        Step::Mount { at, what } => {
            let target = beneath::directory(root, at).map_err(failed)?;
            if beneath::is_mount_point(target.as_fd()).map_err(failed)? {
                false
            } else {
                put(what, target.as_fd(), failed)?;
                true
            }
        }
        Step::Optional(step) => return Ok(one(root, step).unwrap_or_else(Outcome::Skipped)),
    };
    Ok(if changed {
        Outcome::Changed
    } else {
        Outcome::Unchanged
    })
}

fn put(
    what: &Source<'_>,
    target: BorrowedFd<'_>,
    failed: impl Fn(io::Error) -> Error,
) -> Result<(), Error> {
    match what {
        Source::Virtual { fstype, options } => {
            let mount = filesystem::mount_virtual(fstype, &MountOptions::parse(options))?;
            attach(mount.as_fd(), target).map_err(failed)
        }
        Source::Mount { mount, attributes } => filesystem::set_attributes(*mount, *attributes)
            .and_then(|()| attach(*mount, target))
            .map_err(failed),
    }
}

/// Puts a mount, detached or not, onto what `target` refers to.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}
