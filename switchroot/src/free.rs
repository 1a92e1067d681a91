//! Giving the initramfs' memory back: its files are pages that only unlinking frees.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, fstat, fstatfs, openat, unlinkat};

/// linux/magic.h
const RAMFS_MAGIC: i64 = 0x8584_58f6;
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Whether the file system lives in memory, and deleting its files is all that can be done with them.
pub(crate) fn is_in_memory(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let kind = fstatfs(directory)?.f_type;
    Ok(kind == RAMFS_MAGIC || kind == TMPFS_MAGIC)
}

/// Deletes everything below `directory` that is on the same file system. What cannot be deleted stays: at this point
/// nothing better could be done, and it costs memory only.
pub(crate) fn empty(directory: BorrowedFd<'_>) {
    if let Ok(stat) = fstat(directory) {
        empty_same(directory, stat.st_dev);
    }
}

fn empty_same(directory: BorrowedFd<'_>, device: u64) {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut directories: Vec<CString> = Vec::new();
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            directories.push(name.to_owned());
        } else {
            unlinkat(directory, name, AtFlags::empty()).ok();
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in directories {
        if let Ok(below) = openat(directory, &name, flags, Mode::empty())
            && fstat(&below).is_ok_and(|stat| stat.st_dev == device)
        {
            empty_same(below.as_fd(), device);
            unlinkat(directory, &name, AtFlags::REMOVEDIR).ok();
        }
    }
}
