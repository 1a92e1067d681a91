//! File operations below a directory that may have been prepared by somebody else: no symlink leads out of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, fchmod, mkdirat, openat2,
    statx, symlinkat,
};
use rustix::io::Errno;

const STRICT: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Opens the directory `path` below `root` for use as a mount point or parent; no component may be a symlink.
pub(crate) fn directory(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(root, path, flags, Mode::empty(), STRICT)?)
}

/// Opens `path` as it is seen by a process whose root is `root`: symlinks are followed and stay inside.
pub(crate) fn inside(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // Non-blocking, so that a FIFO in the place of a file does not hang us.
    Ok(openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        resolve,
    )?)
}

/// Whether something is at `path` below `root`; a dangling symlink counts.
pub(crate) fn exists(root: BorrowedFd<'_>, path: &Path) -> bool {
    openat2(
        root,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH,
    )
    .is_ok()
}

/// Makes a directory of exactly this mode; `false` if something is there already, which stays as it is.
pub(crate) fn make_directory(root: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<bool> {
    let (parent, name) = parent(root, path)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
        Err(Errno::EXIST) => return Ok(false),
        other => other?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let made = openat2(&parent, name, flags, Mode::empty(), STRICT)?;
    fchmod(made, Mode::from_raw_mode(mode))?;
    Ok(true)
}

/// Makes a symlink; `false` if something is there already, which stays as it is.
pub(crate) fn make_symlink(root: BorrowedFd<'_>, path: &Path, target: &str) -> io::Result<bool> {
    let (parent, name) = parent(root, path)?;
    match symlinkat(target, &parent, name) {
        Err(Errno::EXIST) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// Whether a mount's root is what `fd` refers to.
pub(crate) fn is_mount_point(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let answer = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(answer.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn parent<'a>(root: BorrowedFd<'_>, path: &'a Path) -> io::Result<(OwnedFd, &'a Path)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let above = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    Ok((directory(root.as_fd(), above)?, Path::new(name)))
}
