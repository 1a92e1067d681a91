//! `CopyFiles=`: one source into the tree.
//!
//! Invariant: directories are entered by file descriptor and without following links, so that a tree that changes
//! meanwhile gives a wrong copy of itself at worst, never a copy of something else.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags, chownat, fchmod, fgetxattr, flistxattr, fsetxattr, fstat, ftruncate, futimens,
    linkat, mkdirat, mknodat, openat, readlinkat, seek, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::{PopulateError, TreeRequest, failed, identity, make_directories, resolve};
use crate::definition::CopyFiles;
use crate::types::Designator;

/// Directories that describe the running system and not the image.
const TRANSIENT: [&str; 6] = ["/proc/", "/sys/", "/dev/", "/tmp/", "/run/", "/var/tmp/"];
const BLOCK: usize = 1 << 20;

/// How much of an excluded file stays out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deny {
    All,
    Contents,
}

/// Copies into one tree.
pub(super) struct Copier<'a> {
    sources: &'a OwnedFd,
    root: &'a OwnedFd,
    epoch: Option<i64>,
    root_is_set: bool,
    deny: BTreeMap<(u64, u64), Deny>,
    /// Source inode to its first copy, relative to the top of the running copy.
    links: BTreeMap<(u64, u64), PathBuf>,
    notes: Vec<String>,
    kept_owner: bool,
}

impl<'a> Copier<'a> {
    pub(super) fn new(sources: &'a OwnedFd, root: &'a OwnedFd, epoch: Option<i64>) -> Self {
        Self {
            sources,
            root,
            epoch,
            root_is_set: false,
            deny: BTreeMap::new(),
            links: BTreeMap::new(),
            notes: Vec::new(),
            kept_owner: true,
        }
    }

    pub(super) fn into_notes(mut self) -> Vec<String> {
        if !self.kept_owner {
            self.notes
                .push("owners of copied files are those of the caller: not root".to_owned());
        }
        self.notes
    }

    /// One assignment.
    pub(super) fn copy(
        &mut self,
        request: &TreeRequest<'_>,
        files: &CopyFiles,
    ) -> Result<(), PopulateError> {
        if !files.options.is_empty() {
            self.notes.push(format!(
                "CopyFiles={}: option {} is ignored",
                files.source.display(),
                files.options
            ));
        }
        let source = match resolve(self.sources, &files.source, OFlags::PATH) {
            Ok(source) => source,
            Err(Errno::NOENT) => {
                self.notes
                    .push(format!("{} is not there, skipped", files.source.display()));
                return Ok(());
            }
            Err(error) => return Err(failed("cannot open", &files.source)(error)),
        };
        self.deny = self
            .denied(request, files)
            .map_err(failed("cannot look at exclusions of", &files.source))?;
        self.links.clear();
        let stat = fstat(&source).map_err(failed("cannot look at", &files.source))?;
        if self.denied_as(&stat) == Some(Deny::All) {
            return Ok(());
        }
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            return self.copy_top(files, &stat);
        }
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            let odd = failed(
                "cannot copy, being no file and no directory,",
                &files.source,
            );
            return Err(odd(Errno::INVAL));
        }
        let (Some(parent), Some(name)) = (files.target.parent(), files.target.file_name()) else {
            let odd = failed("a file cannot be copied to / from", &files.source);
            return Err(odd(Errno::ISDIR));
        };
        let parent = make_directories(self.root, parent, self.epoch)
            .map_err(failed("cannot make directory", parent))?;
        let open = resolve(self.sources, &files.source, OFlags::RDONLY);
        open.and_then(|from| self.file(&from, &stat, &parent, name))
            .map_err(failed("cannot copy", &files.source))
    }

    /// A directory: its contents go into the target, which takes its attributes if it is new.
    fn copy_top(&mut self, files: &CopyFiles, stat: &Stat) -> Result<(), PopulateError> {
        let from = resolve(
            self.sources,
            &files.source,
            OFlags::RDONLY | OFlags::DIRECTORY,
        )
        .map_err(failed("cannot open", &files.source))?;
        let is_root = files.target.parent().is_none();
        let there = resolve(self.root, &files.target, OFlags::RDONLY | OFlags::DIRECTORY);
        let fresh = there.is_err() || is_root && !self.root_is_set;
        let to = match there {
            Ok(to) => to,
            Err(_) => make_directories(self.root, &files.target, self.epoch)
                .map_err(failed("cannot make directory", &files.target))?,
        };
        self.root_is_set |= is_root;
        let own = identity(self.root).map_err(failed("cannot look at", &files.target))?;
        if identity(&from).map_err(failed("cannot look at", &files.source))? == own {
            return Err(failed(
                "the new tree cannot be its own source:",
                &files.source,
            )(Errno::LOOP));
        }
        // A temporary directory inside the source is not copied into itself.
        self.deny.insert(own, Deny::All);
        let deny = self.denied_as(stat);
        if deny.is_none() {
            let top = to.try_clone().map_err(|source| PopulateError {
                what: "cannot open",
                path: files.target.clone(),
                source,
            })?;
            self.entries(&from, &to, &top, Path::new(""), &files.source)?;
        }
        if fresh {
            self.attributes(&from, stat, &to)
                .map_err(failed("cannot copy the attributes of", &files.source))?;
        }
        Ok(())
    }

    /// Everything in a directory, by name.
    fn entries(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        top: &OwnedFd,
        below: &Path,
        shown: &Path,
    ) -> Result<(), PopulateError> {
        for name in names(from).map_err(failed("cannot list", shown))? {
            let name = OsStr::from_bytes(name.as_bytes());
            let shown = shown.join(name);
            let below = below.join(name);
            let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("cannot look at", &shown))?;
            let deny = self.denied_as(&stat);
            if deny == Some(Deny::All) {
                continue;
            }
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                let fail = failed("cannot copy directory", &shown);
                let (source, target, fresh) = enter(from, to, name).map_err(fail)?;
                if deny.is_none() {
                    self.entries(&source, &target, top, &below, &shown)?;
                }
                if fresh {
                    self.attributes(&source, &stat, &target)
                        .map_err(failed("cannot copy the attributes of", &shown))?;
                }
            } else {
                self.leaf(from, name, &stat, to, top, &below)
                    .map_err(failed("cannot copy", &shown))?;
            }
        }
        Ok(())
    }

    /// Anything but a directory; a further name of something copied already becomes a link to the copy.
    fn leaf(
        &mut self,
        from: &OwnedFd,
        name: &OsStr,
        stat: &Stat,
        to: &OwnedFd,
        top: &OwnedFd,
        below: &Path,
    ) -> Result<(), Errno> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                replace(to, name)?;
                return linkat(top, first, to, name, AtFlags::empty());
            }
            self.links
                .insert((stat.st_dev, stat.st_ino), below.to_owned());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let source = openat(
                    from,
                    name,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                // Between the look and the opening another file may have come.
                let stat = fstat(&source)?;
                if !FileType::from_raw_mode(stat.st_mode).is_file() {
                    return Err(Errno::STALE);
                }
                self.file(&source, &stat, to, name)
            }
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                replace(to, name)?;
                symlinkat(target, to, name)?;
                self.own(to, name, stat)?;
                utimensat(to, name, &self.times(stat), AtFlags::SYMLINK_NOFOLLOW)
            }
            kind => {
                replace(to, name)?;
                mknodat(
                    to,
                    name,
                    kind,
                    Mode::from_raw_mode(stat.st_mode),
                    stat.st_rdev,
                )?;
                self.own(to, name, stat)?;
                // Nobody else can reach the tree, so the name still is the node just made.
                rustix::fs::chmodat(
                    to,
                    name,
                    Mode::from_raw_mode(stat.st_mode),
                    AtFlags::empty(),
                )?;
                utimensat(to, name, &self.times(stat), AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    fn file(
        &mut self,
        from: &OwnedFd,
        stat: &Stat,
        to: &OwnedFd,
        name: &OsStr,
    ) -> Result<(), Errno> {
        replace(to, name)?;
        let target = openat(
            to,
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )?;
        copy_sparse(from, &target, stat)?;
        self.attributes(from, stat, &target)
    }

    /// Owner, mode, extended attributes, times, in this order: a change of owner takes set-user-id and capabilities away.
    fn attributes(&mut self, from: &OwnedFd, stat: &Stat, to: &OwnedFd) -> Result<(), Errno> {
        self.own(to, OsStr::new(""), stat)?;
        fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
        self.extended(from, to)?;
        futimens(to, &self.times(stat))
    }

    fn own(&mut self, dir: &OwnedFd, name: &OsStr, stat: &Stat) -> Result<(), Errno> {
        let flags = if name.is_empty() {
            AtFlags::EMPTY_PATH
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        let owner = Some(Uid::from_raw(stat.st_uid));
        let group = Some(Gid::from_raw(stat.st_gid));
        match chownat(dir, name, owner, group, flags) {
            Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {
                self.kept_owner = false;
                Ok(())
            }
            done => done,
        }
    }

    fn extended(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        let mut list = vec![0; 1 << 16];
        let count = match flistxattr(from, &mut list[..]) {
            Ok(count) => count,
            Err(Errno::OPNOTSUPP) => return Ok(()),
            Err(error) => return Err(error),
        };
        for name in list[..count].split(|byte| *byte == 0) {
            // The running policy's label; the booted system sets its own.
            if name.is_empty() || name == b"security.selinux" {
                continue;
            }
            let mut value = vec![0; 1 << 16];
            let len = fgetxattr(from, OsStr::from_bytes(name), &mut value[..])?;
            match fsetxattr(
                to,
                OsStr::from_bytes(name),
                &value[..len],
                XattrFlags::empty(),
            ) {
                Err(Errno::OPNOTSUPP | Errno::PERM) => {
                    let text =
                        format!("attribute {} cannot be kept", String::from_utf8_lossy(name));
                    if !self.notes.contains(&text) {
                        self.notes.push(text);
                    }
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// The source's, but none later than `SOURCE_DATE_EPOCH`.
    fn times(&self, stat: &Stat) -> Timestamps {
        let at = |tv_sec: i64, nanoseconds| match self.epoch {
            Some(epoch) if tv_sec >= epoch => Timespec {
                tv_sec: epoch,
                tv_nsec: 0,
            },
            _ => Timespec {
                tv_sec,
                tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
            },
        };
        Timestamps {
            last_access: at(stat.st_atime, stat.st_atime_nsec),
            last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
        }
    }

    fn denied_as(&self, stat: &Stat) -> Option<Deny> {
        self.deny.get(&(stat.st_dev, stat.st_ino)).copied()
    }

    /// Inodes below the source root that stay out of this copy.
    fn denied(
        &self,
        request: &TreeRequest<'_>,
        files: &CopyFiles,
    ) -> Result<BTreeMap<(u64, u64), Deny>, Errno> {
        let content = &request.definition.content;
        let mut paths: Vec<PathBuf> = TRANSIENT.map(PathBuf::from).to_vec();
        paths.extend(content.exclude_files.iter().cloned());
        let mut targets = content.exclude_files_target.clone();
        if request.partition.partition_type.designator() == Designator::Root {
            // Mount points of other partitions: kept, but empty.
            targets.extend(request.elsewhere.iter().map(|path| path.join("")));
            targets.extend(TRANSIENT.map(PathBuf::from));
        }
        for target in targets {
            if let Ok(rest) = target.strip_prefix(&files.target) {
                let mut source = files.source.join(rest);
                if target.as_os_str().as_bytes().ends_with(b"/") {
                    source.push("");
                }
                paths.push(source);
            }
        }
        let mut deny = BTreeMap::new();
        for path in paths {
            let kind = if path.as_os_str().as_bytes().ends_with(b"/") {
                Deny::Contents
            } else {
                Deny::All
            };
            match resolve(self.sources, &path, OFlags::PATH | OFlags::NOFOLLOW) {
                Ok(fd) => {
                    let of = deny.entry(identity(&fd)?).or_insert(kind);
                    if kind == Deny::All {
                        *of = Deny::All;
                    }
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deny)
    }
}

/// Opens a directory on both sides; true if it is new on the right.
fn enter(from: &OwnedFd, to: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, OwnedFd, bool), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = openat(from, name, flags, Mode::empty())?;
    let fresh = match mkdirat(to, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error),
    };
    let target = openat(to, name, flags, Mode::empty())?;
    Ok((source, target, fresh))
}

/// Removes what an earlier copy put there. A directory stays, and what wanted its place fails.
fn replace(dir: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Holes stay holes.
fn copy_sparse(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<(), Errno> {
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    ftruncate(to, len)?;
    let duplicate = |fd: &OwnedFd| fd.try_clone().map(File::from);
    let errno = |error: std::io::Error| {
        error
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error)
    };
    let (source, target) = (
        duplicate(from).map_err(errno)?,
        duplicate(to).map_err(errno)?,
    );
    let mut buffer = vec![0; BLOCK];
    let mut at = 0;
    while at < len {
        at = match seek(&source, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        let end = seek(&source, SeekFrom::Hole(at))?.min(len);
        while at < end {
            let want = usize::try_from(end - at).map_or(BLOCK, |left| left.min(BLOCK));
            let got = source.read_at(&mut buffer[..want], at).map_err(errno)?;
            if got == 0 {
                return Ok(());
            }
            target.write_all_at(&buffer[..got], at).map_err(errno)?;
            at += u64::try_from(got).unwrap_or(0);
        }
    }
    Ok(())
}
