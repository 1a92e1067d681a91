//! Block devices: their geometry, and the partitions the kernel knows of them.
//!
//! Partitions are handed to the kernel one by one (BLKPG), never by re-reading a whole table (BLKRRPART): the latter is
//! refused as soon as one partition of the disk is in use, and drops entries that are not in the table yet.

use std::ffi::{c_char, c_int, c_longlong, c_void};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::ioctl::{self, Getter, NoArg, Opcode, Setter, opcode};

const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
const BLKGETDISKSEQ: Opcode = opcode::read::<u64>(0x12, 128);
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);
const BLKPG: Opcode = opcode::none(0x12, 105);
const BLKDISCARD: Opcode = opcode::none(0x12, 119);
const BLKZEROOUT: Opcode = opcode::none(0x12, 127);

const BLKPG_ADD_PARTITION: c_int = 1;
const BLKPG_DEL_PARTITION: c_int = 2;
const BLKPG_RESIZE_PARTITION: c_int = 3;

/// `struct blkpg_partition` of linux/blkpg.h; `start` and `length` in bytes.
#[repr(C)]
struct BlkpgPartition {
    start: c_longlong,
    length: c_longlong,
    pno: c_int,
    devname: [c_char; 64],
    volname: [c_char; 64],
}

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct BlkpgArg {
    op: c_int,
    flags: c_int,
    datalen: c_int,
    data: *mut c_void,
}

/// Size of the device in bytes.
pub fn size(device: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: BLKGETSIZE64 writes one u64 (declared with size_t's number), which is what the getter provides.
    let request = unsafe { Getter::<BLKGETSIZE64, u64>::new() };
    // SAFETY: the request only reads the device's size.
    Ok(unsafe { ioctl::ioctl(device, request) }?)
}

/// Logical sector size in bytes: what the device addresses, and the unit of its GPT.
pub fn sector_size(device: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(rustix::fs::ioctl_blksszget(device)?)
}

/// The number the kernel gave this disk when it appeared; never used twice during one boot (Linux 5.15).
pub fn disk_sequence(device: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: BLKGETDISKSEQ writes one u64.
    let request = unsafe { Getter::<BLKGETDISKSEQ, u64>::new() };
    // SAFETY: the request only reads a number of the disk.
    Ok(unsafe { ioctl::ioctl(device, request) }?)
}

/// Tells the device that `length` bytes from `offset` are no longer needed; both multiples of the sector size.
pub fn discard(device: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    // SAFETY: BLKDISCARD reads two u64, start and length in bytes.
    let request = unsafe { Setter::<BLKDISCARD, [u64; 2]>::new([offset, length]) };
    // SAFETY: the kernel checks the range; no memory of ours is involved beyond the two numbers.
    Ok(unsafe { ioctl::ioctl(device, request) }?)
}

/// Makes `length` bytes from `offset` read as zeroes, by whatever the device does fastest; both multiples of the sector size.
pub fn zero_out(device: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64, start and length in bytes.
    let request = unsafe { Setter::<BLKZEROOUT, [u64; 2]>::new([offset, length]) };
    // SAFETY: the kernel checks the range; no memory of ours is involved beyond the two numbers.
    Ok(unsafe { ioctl::ioctl(device, request) }?)
}

/// Writes what is dirty of the device and drops its page cache.
pub fn flush_buffers(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument.
    let request = unsafe { NoArg::<BLKFLSBUF>::new() };
    // SAFETY: the request writes back and drops caches of the kernel only.
    Ok(unsafe { ioctl::ioctl(device, request) }?)
}

/// Makes partition `number` known to the kernel: `length` bytes from `offset` of the whole disk `disk`.
/// The table on the disk is not touched. `EBUSY` if the number is known or the range overlaps a known partition.
pub fn add_partition(
    disk: BorrowedFd<'_>,
    number: u32,
    offset: u64,
    length: u64,
) -> io::Result<()> {
    blkpg(disk, BLKPG_ADD_PARTITION, number, offset, length)
}

/// Tells the kernel that partition `number` now has `length` bytes; `offset` must be the one it has. Works while in use.
pub fn resize_partition(
    disk: BorrowedFd<'_>,
    number: u32,
    offset: u64,
    length: u64,
) -> io::Result<()> {
    blkpg(disk, BLKPG_RESIZE_PARTITION, number, offset, length)
}

/// Makes the kernel forget partition `number`. `EBUSY` while it is open, `ENXIO` if it is not known.
pub fn delete_partition(disk: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    blkpg(disk, BLKPG_DEL_PARTITION, number, 0, 0)
}

fn blkpg(disk: BorrowedFd<'_>, op: c_int, number: u32, offset: u64, length: u64) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: c_longlong::try_from(offset).map_err(invalid)?,
        length: c_longlong::try_from(length).map_err(invalid)?,
        pno: c_int::try_from(number).map_err(invalid)?,
        devname: [0; 64],
        volname: [0; 64],
    };
    let arg = BlkpgArg {
        op,
        flags: 0,
        datalen: c_int::try_from(size_of::<BlkpgPartition>()).map_err(invalid)?,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: BLKPG reads one blkpg_ioctl_arg.
    let request = unsafe { Setter::<BLKPG, BlkpgArg>::new(arg) };
    // SAFETY: `data` points to `partition`, which is `datalen` bytes and lives until after the call.
    Ok(unsafe { ioctl::ioctl(disk.as_fd(), request) }?)
}
