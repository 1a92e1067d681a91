//! Online growth of a mounted file system to the size of its device.
//!
//! Sources: `linux/btrfs.h` (BTRFS_IOC_RESIZE), `linux/ext4.h` (EXT4_IOC_RESIZE_FS, Linux 3.3), `linux/magic.h`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstatfs, openat};

const BTRFS_SUPER_MAGIC: u64 = 0x9123_683e;
const EXT4_SUPER_MAGIC: u64 = 0xef53;
/// `_IOW(0x94, 3, struct btrfs_ioctl_vol_args)`, which is 4096 bytes.
const BTRFS_IOC_RESIZE: libc::Ioctl = 0x5000_9403;
/// `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

/// Grows the file system behind `mount` to the size of `device`. Returns whether it had to.
/// File systems other than btrfs and ext4 are left alone: `false`.
///
/// # Errors
/// The kernel's answer; the file system then has its old size.
pub fn grow(mount: BorrowedFd<'_>, device: &Path) -> io::Result<bool> {
    // A detached mount's descriptor is a path only; ioctls want an open directory.
    let directory = openat(
        mount,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let statfs = fstatfs(&directory)?;
    let block = u64::try_from(statfs.f_bsize).map_err(|_| io::ErrorKind::InvalidData)?;
    let blocks = statfs.f_blocks;
    let file = std::fs::File::open(device)?;
    let size = crate::block::size(std::os::fd::AsFd::as_fd(&file))?;
    // The low 32 bits are the magic; the type differs between architectures.
    match statfs.f_type as u64 & 0xffff_ffff {
        BTRFS_SUPER_MAGIC if blocks.saturating_mul(block).saturating_add(1 << 20) <= size => {
            let mut arguments = VolumeArguments {
                fd: 0,
                name: [0; 4088],
            };
            arguments.name[..5].copy_from_slice(b"1:max");
            // SAFETY: the structure has the size and layout the request number says, and lives through the call.
            answer(unsafe {
                libc::ioctl(directory.as_raw_fd(), BTRFS_IOC_RESIZE, &raw mut arguments)
            })
        }
        // f_blocks leaves the overhead out, so ext4 is asked whenever there may be a whole group (128 MiB at 4 KiB) more.
        EXT4_SUPER_MAGIC if blocks.saturating_mul(block).saturating_add(128 << 20) <= size => {
            let mut wanted = size / block;
            // SAFETY: the request takes a pointer to an u64, which lives through the call.
            answer(unsafe {
                libc::ioctl(directory.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw mut wanted)
            })
        }
        _ => Ok(false),
    }
}

fn answer(code: libc::c_int) -> io::Result<bool> {
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(true)
    }
}
