//! The new root: its skeleton, and what is mounted into it.
//!
//! Invariant: what is there is never replaced, and no symlink of the new root is followed on the way to a mount point.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

use crate::beneath;
use crate::error::Error;
use crate::options::Attributes;
use crate::step::{Outcome, Step, apply, attach};

/// A root file system that is mounted nowhere yet, and what goes into it.
#[derive(Debug)]
pub struct NewRoot {
    root: OwnedFd,
    mounts: Vec<(PathBuf, OwnedFd, Attributes)>,
}

impl NewRoot {
    /// Begins with the root file system, a detached mount.
    #[must_use]
    pub fn new(root: OwnedFd) -> Self {
        Self {
            root,
            mounts: Vec::new(),
        }
    }

    /// A detached mount that is to appear at `at` (relative), with these attributes in addition to its own.
    #[must_use]
    pub fn mount(mut self, at: &str, mount: OwnedFd, attributes: Attributes) -> Self {
        self.mounts.push((at.into(), mount, attributes));
        self
    }

    /// The root file system, for files that are to be there before anybody sees it.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Directories and symlinks every system has at its top, and the mount points.
    /// Those the hand-over needs must work out, the others may fail (on a read-only root).
    #[must_use]
    pub fn skeleton(&self) -> Vec<Step<'_>> {
        let mut steps = Vec::from(NEEDED.map(|(path, mode)| Step::directory(path, mode)));
        for (at, ..) in &self.mounts {
            steps.push(Step::Directory {
                path: at.into(),
                mode: 0o755,
            });
        }
        steps.extend(CUSTOMARY.map(|(path, mode)| Step::directory(path, mode).optional()));
        let usr = self
            .mounts
            .iter()
            .find(|(at, ..)| at == Path::new("usr"))
            .map(|(_, mount, _)| mount);
        for (name, target) in MERGED {
            // lib64 only where /usr has it; without a separate /usr the root brings its own links.
            if usr.is_some_and(|usr| beneath::exists(usr.as_fd(), Path::new(name))) {
                steps.push(Step::symlink(name, target));
            }
        }
        steps
    }

    /// Makes the skeleton, attaches the root to the directory `staging` (made if missing) and the mounts to the root.
    /// On failure nothing stays mounted.
    pub fn assemble(self, staging: &Path) -> Result<Root, Error> {
        let made = apply(self.fd(), &self.skeleton())?;
        let skipped = made
            .into_iter()
            .filter(|outcome| matches!(outcome, Outcome::Skipped(_)))
            .collect();
        let failed = |source| Error::Attach {
            at: staging.into(),
            source,
        };
        let target = stage(staging).map_err(failed)?;
        attach(self.root.as_fd(), target.as_fd()).map_err(failed)?;
        let Self { root, mounts } = self;
        let root = Root {
            root,
            staging: Some(staging.into()),
            skipped,
        };
        for (at, mount, attributes) in &mounts {
            apply(root.fd(), &[Step::mount(at, mount.as_fd(), *attributes)])?;
        }
        Ok(root)
    }
}

fn stage(staging: &Path) -> io::Result<OwnedFd> {
    // A mount below a shared one can neither be moved nor kept from other namespaces. The initramfs' are private from
    // the start; this is for everybody else.
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    match std::fs::create_dir(staging) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags =
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        CWD,
        staging,
        flags,
        rustix::fs::Mode::empty(),
    )?)
}

/// The new root, complete, attached to the staging directory. Dropping it takes it apart.
#[derive(Debug)]
pub struct Root {
    root: OwnedFd,
    staging: Option<PathBuf>,
    skipped: Vec<Outcome>,
}

impl Root {
    /// Its root directory.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a file for reading as a process in the new root would see it.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        beneath::inside(self.fd(), path).map(File::from)
    }

    /// Optional parts of the skeleton that could not be made.
    #[must_use]
    pub fn skipped(&self) -> &[Outcome] {
        &self.skipped
    }

    /// From here on dropping it changes nothing.
    pub(crate) fn keep(&mut self) {
        self.staging = None;
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Some(staging) = self.staging.take() {
            // Nobody could act on a failure here, and the tree is reachable by nothing else.
            unmount(&staging, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).ok();
        }
    }
}

const NEEDED: [(&str, u32); 5] = [
    ("usr", 0o755),
    ("dev", 0o755),
    ("proc", 0o555),
    ("sys", 0o555),
    ("run", 0o755),
];

const CUSTOMARY: [(&str, u32); 11] = [
    ("etc", 0o755),
    ("var", 0o755),
    ("tmp", 0o1777),
    ("root", 0o700),
    ("home", 0o755),
    ("srv", 0o755),
    ("opt", 0o755),
    ("mnt", 0o755),
    ("media", 0o755),
    ("boot", 0o755),
    ("efi", 0o755),
];

const MERGED: [(&str, &str); 4] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];
