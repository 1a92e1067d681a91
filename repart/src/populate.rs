//! The tree a new file system is filled from (spec 5.4): built in a private directory, owners, modes, extended attributes,
//! times, hard links and holes kept, for mkfs to take over.
//!
//! Invariant: every source is resolved below the source root and every target below the private directory (openat2,
//! `RESOLVE_IN_ROOT`): no symbolic link leads out of either, whoever made it.

mod copy;
mod proto;
#[cfg(feature = "cli")]
mod vfat;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod,
    fchown, fsetxattr, futimens, mkdirat, openat, openat2, statat, symlinkat,
};
use rustix::io::Errno;

use crate::definition::Definition;
use crate::plan::PlannedPartition;
use crate::types::{Designator, PartitionType};

pub use proto::write as write_proto;
#[cfg(feature = "cli")]
pub use vfat::fill as fill_vfat;

/// Mode of directories that are made.
const DIRECTORY: Mode = Mode::from_raw_mode(0o755);

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub struct PopulateError {
    /// What was done, e.g. `cannot copy`.
    pub what: &'static str,
    /// To which file or directory.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

pub(crate) fn failed(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(Errno) -> PopulateError + use<> {
    let path = path.to_owned();
    move |error| PopulateError {
        what,
        path,
        source: error.into(),
    }
}

/// What goes into a tree.
#[derive(Clone, Copy, Debug)]
pub struct TreeRequest<'a> {
    /// The new partition.
    pub partition: &'a PlannedPartition,
    /// Its definition.
    pub definition: &'a Definition,
    /// Sources of `CopyFiles=` are looked up below this directory.
    pub sources: &'a Path,
    /// Directories of the new root file system that are other partitions': their contents stay out.
    pub elsewhere: &'a [PathBuf],
    /// Times of what is made and not copied, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<i64>,
}

/// What a person may want to know about a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Sources that are not there, attributes that could not be kept.
    pub notes: Vec<String>,
    /// Nothing is in it, not even an attribute of the root directory.
    pub is_empty: bool,
}

/// Fills `target`, an empty directory of the caller's.
///
/// # Errors
/// The file that could not be made. What `target` holds then is to be thrown away.
pub fn build(request: &TreeRequest<'_>, target: &Path) -> Result<Tree, PopulateError> {
    let content = &request.definition.content;
    let open = |path: &Path| {
        openat(
            CWD,
            path,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    let root = open(target).map_err(failed("cannot open", target))?;
    fchmod(&root, DIRECTORY).map_err(failed("cannot set the mode of", target))?;
    let mut notes = Vec::new();
    if !content.copy_files.is_empty() {
        let sources =
            open(request.sources).map_err(failed("cannot open the sources", request.sources))?;
        let mut copier = copy::Copier::new(&sources, &root, request.epoch);
        for files in &content.copy_files {
            copier.copy(request, files)?;
        }
        notes = copier.into_notes();
    }
    for path in &content.make_directories {
        make_directories(&root, path, request.epoch)
            .map_err(failed("cannot make directory", path))?;
    }
    for (path, target) in &content.make_symlinks {
        make_symlink(&root, path, target, request.epoch)
            .map_err(failed("cannot make symbolic link", path))?;
    }
    for subvolume in &content.subvolumes {
        make_directories(&root, &subvolume.path, request.epoch)
            .map_err(failed("cannot make directory", &subvolume.path))?;
    }
    let mut is_empty = content.copy_files.is_empty()
        && content.make_directories.is_empty()
        && content.make_symlinks.is_empty()
        && content.subvolumes.is_empty();
    let has_attributes = !matches!(
        content.format.as_ref().map(crate::definition::Format::name),
        None | Some("vfat" | "swap" | "empty" | "xfs")
    );
    if has_attributes && content.add_validate_fs != Some(false) {
        validate_attributes(&root, request).map_err(failed("cannot set attributes of", target))?;
        is_empty = false;
    } else if content.add_validate_fs == Some(true) {
        notes.push("AddValidateFS= has no effect on this file system".to_owned());
    }
    if content.copy_files.is_empty() {
        set_times(&root, request.epoch).map_err(failed("cannot set the times of", target))?;
    }
    Ok(Tree { notes, is_empty })
}

/// Where a type is mounted by systemd's rules (systemd-gpt-auto-generator(8)); the first is preferred.
#[must_use]
pub fn mount_points(kind: &PartitionType) -> &'static [&'static str] {
    match kind.designator() {
        Designator::Root => &["/"],
        Designator::Usr => &["/usr"],
        Designator::Home => &["/home"],
        Designator::Srv => &["/srv"],
        Designator::Var => &["/var"],
        Designator::Tmp => &["/var/tmp"],
        Designator::Esp => &["/efi", "/boot"],
        Designator::Xbootldr => &["/boot"],
        _ => &[],
    }
}

/// What systemd-validatefs@.service compares with the partition it is about to mount.
fn validate_attributes(root: &OwnedFd, request: &TreeRequest<'_>) -> Result<(), Errno> {
    let partition = request.partition;
    let set = |name: &str, value: &str| {
        fsetxattr(
            root,
            format!("user.validatefs.{name}"),
            value.as_bytes(),
            XattrFlags::empty(),
        )
    };
    if !partition.label.is_empty() {
        set("gpt_label", &partition.label)?;
    }
    set(
        "gpt_type_uuid",
        &partition.partition_type.uuid().to_string(),
    )?;
    let own = &request.definition.content.mount_points;
    let known: Vec<&str> = if own.is_empty() {
        mount_points(&partition.partition_type).to_vec()
    } else {
        own.iter().map(String::as_str).collect()
    };
    if known.is_empty() {
        return Ok(());
    }
    set("mount_point", &known.join("\0"))
}

/// Resolves below `root`, links included.
pub(crate) fn resolve(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    };
    openat2(
        root,
        relative,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Makes what is missing of the path and opens its end.
pub(crate) fn make_directories(
    root: &OwnedFd,
    path: &Path,
    epoch: Option<i64>,
) -> Result<OwnedFd, Errno> {
    let directory = OFlags::DIRECTORY | OFlags::RDONLY;
    let mut so_far = PathBuf::from("/");
    let mut fd = resolve(root, &so_far, directory)?;
    for part in path.components() {
        let std::path::Component::Normal(name) = part else {
            continue;
        };
        so_far.push(name);
        fd = match resolve(root, &so_far, directory) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                mkdirat(&fd, name, DIRECTORY)?;
                let made = openat(
                    &fd,
                    name,
                    directory | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                fchmod(&made, DIRECTORY)?;
                if rustix::process::geteuid().is_root() {
                    fchown(&made, Some(Uid::ROOT), Some(Gid::ROOT))?;
                }
                set_times(&made, epoch)?;
                set_times(&fd, epoch)?;
                made
            }
            Err(error) => return Err(error),
        };
    }
    Ok(fd)
}

fn make_symlink(
    root: &OwnedFd,
    path: &Path,
    target: &Path,
    epoch: Option<i64>,
) -> Result<(), Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EXIST);
    };
    let parent = make_directories(root, parent, epoch)?;
    match symlinkat(target, &parent, name) {
        Err(Errno::EXIST) => {
            let there = rustix::fs::readlinkat(&parent, name, Vec::new())?;
            if there.as_bytes() == std::os::unix::ffi::OsStrExt::as_bytes(target.as_os_str()) {
                Ok(())
            } else {
                Err(Errno::EXIST)
            }
        }
        Ok(()) => {
            let Some(times) = times(epoch) else {
                return Ok(());
            };
            rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            set_times(&parent, epoch)
        }
        Err(error) => Err(error),
    }
}

fn times(epoch: Option<i64>) -> Option<Timestamps> {
    let at = Timespec {
        tv_sec: epoch?,
        tv_nsec: 0,
    };
    Some(Timestamps {
        last_access: at,
        last_modification: at,
    })
}

pub(crate) fn set_times(fd: &OwnedFd, epoch: Option<i64>) -> Result<(), Errno> {
    times(epoch).map_or(Ok(()), |times| futimens(fd, &times))
}

/// Device and inode, which tell a file from all others.
pub(crate) fn identity(fd: &OwnedFd) -> Result<(u64, u64), Errno> {
    let stat = statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok((stat.st_dev, stat.st_ino))
}
