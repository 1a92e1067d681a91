//! Telling the kernel about a written table, partition by partition (BLKPG): a re-read of the whole table would take
//! away nodes that are in use. And waiting for udev to keep off: its protocol is a lock on the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, fstat, major, minor};

use crate::apply::ContentsError;
use crate::plan::{Plan, PlannedPartition};

/// One partition the kernel knows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    offset: u64,
    size: u64,
}

/// Waits until nobody else works on the disk. As long as the file is open udev leaves the disk alone
/// (<https://systemd.io/BLOCK_DEVICE_LOCKING/>).
pub(super) fn lock(disk: &File, writable: bool) -> io::Result<()> {
    let how = if writable {
        FlockOperation::LockExclusive
    } else {
        FlockOperation::LockShared
    };
    Ok(flock(disk, how)?)
}

/// Makes what the kernel knows of the disk what the plan says.
pub(super) fn tell(disk: &File, plan: &Plan) -> Result<(), ContentsError> {
    let sysfs = sysfs(disk)?;
    let known = known(&sysfs)?;
    let wanted: BTreeMap<u32, &PlannedPartition> = plan
        .partitions
        .iter()
        .filter(|partition| !partition.deferred)
        .map(|partition| (partition.number, partition))
        .collect();
    let context = |what: &str, number: u32, error: io::Error| -> ContentsError {
        format!("cannot {what} partition {number}: {error}").into()
    };
    for (number, there) in &known {
        if wanted
            .get(number)
            .is_none_or(|partition| partition.offset != there.offset)
        {
            sys::block::delete_partition(disk.as_fd(), *number)
                .map_err(|error| context("make the kernel forget", *number, error))?;
        }
    }
    for (number, partition) in wanted {
        let (offset, size) = (partition.offset, partition.size);
        match known.get(&number).filter(|there| there.offset == offset) {
            Some(there) if there.size == size => {}
            Some(_) => sys::block::resize_partition(disk.as_fd(), number, offset, size)
                .map_err(|error| context("make the kernel grow", number, error))?,
            None => match sys::block::add_partition(disk.as_fd(), number, offset, size) {
                // A device that cannot have partitions, e.g. a loop device made without `-P`.
                Err(error) if error.raw_os_error() == Some(libc_einval()) => {
                    super::say(&format!(
                        "repart: the kernel makes no partitions on this device: {error}"
                    ));
                    return Ok(());
                }
                done => done.map_err(|error| context("make the kernel know", number, error))?,
            },
        }
    }
    Ok(())
}

fn libc_einval() -> i32 {
    rustix::io::Errno::INVAL.raw_os_error()
}

/// `/sys/dev/block/MAJOR:MINOR` of an open block device.
pub(super) fn sysfs(device: &File) -> io::Result<PathBuf> {
    let rdev = fstat(device)?.st_rdev;
    Ok(sysfs_of(major(rdev), minor(rdev)))
}

pub(super) fn sysfs_of(major: u32, minor: u32) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// Number, place and size of each partition, in bytes. sysfs counts in 512 bytes, whatever the sector.
fn known(disk: &Path) -> io::Result<BTreeMap<u32, Known>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(disk)? {
        let dir = entry?.path();
        if let Some(number) = attribute(&dir, "partition").and_then(|n| u32::try_from(n).ok()) {
            let sectors = |name| attribute(&dir, name).unwrap_or(0).saturating_mul(512);
            let place = Known {
                offset: sectors("start"),
                size: sectors("size"),
            };
            all.insert(number, place);
        }
    }
    Ok(all)
}

/// A number from sysfs; `None` where there is none.
pub(super) fn attribute(dir: &Path, name: &str) -> Option<u64> {
    std::fs::read_to_string(dir.join(name))
        .ok()?
        .trim()
        .parse()
        .ok()
}
