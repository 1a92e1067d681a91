//! The tree as a prototype file for `mkfs.xfs -p`: what it takes on xfsprogs before 6.17.
//!
//! A prototype knows names, modes of nine bits, owners and file contents with their attributes. Times, the sticky bit
//! and attributes of directories are not kept, a hard link becomes a file of its own.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, major, minor, openat, readlinkat, statat,
};
use rustix::io::Errno;

use super::copy::names;
use super::{PopulateError, failed};

/// Writes `file` for the tree below `tree`. `links` is an empty directory: file names a prototype cannot spell are
/// reached through it.
///
/// # Errors
/// A file that cannot be looked at, or a name no prototype can hold.
///
/// Answers whether a name has spaces, so that mkfs.xfs has to be told `slashes_are_spaces=1` (xfsprogs 6.3).
pub fn write(tree: &Path, links: &Path, file: &Path) -> Result<bool, PopulateError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, tree, flags, Mode::empty()).map_err(failed("cannot open", tree))?;
    let stat = statat(&root, "", AtFlags::EMPTY_PATH).map_err(failed("cannot look at", tree))?;
    let mut text = format!("/\n0 0\n{}\n", attributes(&stat));
    let mut writer = Writer {
        text: &mut text,
        links,
        count: 0,
        spaces: false,
    };
    writer.directory(&root, tree)?;
    let spaces = writer.spaces;
    text.push_str("$\n");
    std::fs::write(file, text).map_err(|source| PopulateError {
        what: "cannot write",
        path: file.to_owned(),
        source,
    })?;
    Ok(spaces)
}

struct Writer<'a> {
    text: &'a mut String,
    links: &'a Path,
    count: usize,
    spaces: bool,
}

impl Writer<'_> {
    fn directory(&mut self, dir: &OwnedFd, path: &Path) -> Result<(), PopulateError> {
        for name in names(dir).map_err(failed("cannot list", path))? {
            let own = path.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
            let odd = || failed("an XFS prototype cannot hold the name", &own)(Errno::INVAL);
            // mkfs.xfs turns slashes into spaces (slashes_are_spaces=1).
            let spelled = name.to_str().map_err(|_| odd())?.replace(' ', "/");
            if spelled.chars().any(|c| c.is_whitespace() || c.is_control())
                || spelled.starts_with([':', '$'])
            {
                return Err(odd());
            }
            self.spaces |= spelled.contains('/');
            let stat = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("cannot look at", &own))?;
            let line = format!("{spelled} {}", attributes(&stat));
            self.entry(dir, &own, &line, &stat)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn entry(
        &mut self,
        dir: &OwnedFd,
        path: &Path,
        line: &str,
        stat: &Stat,
    ) -> Result<(), PopulateError> {
        let name = path.file_name().unwrap_or_default();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner =
                    openat(dir, name, flags, Mode::empty()).map_err(failed("cannot open", path))?;
                self.line(line);
                self.directory(&inner, path)?;
                self.text.push_str("$\n");
            }
            FileType::RegularFile => {
                let link = self.links.join(self.count.to_string());
                self.count += 1;
                symlink(path, &link).map_err(|source| PopulateError {
                    what: "cannot make symbolic link",
                    path: link.clone(),
                    source,
                })?;
                self.line(&format!("{line} {}", link.display()));
            }
            FileType::Symlink => {
                let target =
                    readlinkat(dir, name, Vec::new()).map_err(failed("cannot read", path))?;
                let target = target.to_str().ok().filter(|text| {
                    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control())
                });
                let odd =
                    || failed("an XFS prototype cannot hold the target of", path)(Errno::INVAL);
                self.line(&format!("{line} {}", target.ok_or_else(odd)?));
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
                self.line(&format!("{line} {major} {minor}"));
            }
            FileType::Fifo => self.line(line),
            // A socket means nothing without the process that made it.
            _ => {}
        }
        Ok(())
    }
}

/// Kind and mode in six characters, owner, group.
fn attributes(stat: &Stat) -> String {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        _ => '-',
    };
    let bit = |mask, letter| {
        if stat.st_mode & mask == 0 {
            '-'
        } else {
            letter
        }
    };
    format!(
        "{kind}{}{}{:03o} {} {}",
        bit(0o4000, 'u'),
        bit(0o2000, 'g'),
        stat.st_mode & 0o777,
        stat.st_uid,
        stat.st_gid
    )
}
