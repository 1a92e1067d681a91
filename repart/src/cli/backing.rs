//! Which disk is behind a mount: the root disk when none is named, and the sources of `CopyBlocks=auto` (spec 5.5, 6.4).
//!
//! Invariant: an answer is unambiguous or an error; with several candidates nothing is guessed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use super::kernel::{attribute, sysfs_of};
use crate::disk::BlockDevice;
use crate::gpt::{TableState, observe};
use crate::guid::Guid;
use crate::types::{Designator, PartitionType};

/// A block device, by its directory in sysfs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    sysfs: PathBuf,
}

impl Device {
    fn of(number: u64) -> io::Result<Self> {
        let sysfs = sysfs_of(major(number), minor(number)).canonicalize()?;
        Ok(Self { sysfs })
    }

    fn node(&self) -> io::Result<PathBuf> {
        let text = std::fs::read_to_string(self.sysfs.join("uevent"))?;
        let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
        name.map(|name| Path::new("/dev").join(name))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the kernel names no node"))
    }

    fn partition(&self) -> Option<u64> {
        attribute(&self.sysfs, "partition")
    }

    /// The disk of a partition, the device itself otherwise.
    fn whole(self) -> Self {
        match (self.partition(), self.sysfs.parent()) {
            (Some(_), Some(parent)) => Self {
                sysfs: parent.to_owned(),
            },
            _ => self,
        }
    }

    /// What a device-mapper device is made of; itself where it is none.
    fn below(self) -> io::Result<Vec<Self>> {
        if !self.sysfs.join("dm").is_dir() {
            return Ok(vec![self]);
        }
        let mut all = Vec::new();
        for entry in std::fs::read_dir(self.sysfs.join("slaves"))? {
            all.push(Self {
                sysfs: entry?.path().canonicalize()?,
            });
        }
        Ok(all)
    }
}

/// The block device that holds the file system of `path`; `None` if it is none or a virtual one.
fn behind(path: &Path, must_be_mount: bool) -> io::Result<Option<Device>> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if must_be_mount
        && let Some(parent) = path.parent()
        && parent.metadata()?.dev() == metadata.dev()
        && path != Path::new("/")
    {
        return Ok(None);
    }
    if major(metadata.dev()) != 0 {
        return Device::of(metadata.dev()).map(Some);
    }
    // btrfs has a number of its own: what was mounted tells the device.
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    match mount_source(&text, path).map(|source| source.metadata()) {
        Some(Ok(source)) if source.file_type().is_block_device() => {
            Device::of(source.rdev()).map(Some)
        }
        _ => Ok(None),
    }
}

/// The source of the last mount on `path`, if it is a node.
fn mount_source(mountinfo: &str, path: &Path) -> Option<PathBuf> {
    mountinfo.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let at = left.split(' ').nth(4)?;
        let source = right.split(' ').nth(1)?;
        (Path::new(at) == path && source.starts_with('/')).then(|| PathBuf::from(source))
    })
}

/// The disk behind the root, else behind its `/usr`. With `must_be_mount` a mere directory is no root: its disk is
/// that of another system.
pub(super) fn root_disk(root: &Path, must_be_mount: bool) -> io::Result<Option<PathBuf>> {
    match std::fs::read_link("/run/systemd/volatile-root") {
        Ok(target) => {
            let number = target.metadata()?.rdev();
            return Device::of(number)?.whole().node().map(Some);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for path in [root.to_owned(), root.join("usr")] {
        let Some(device) = behind(&path, must_be_mount)? else {
            continue;
        };
        let mut disks: Vec<Device> = device.below()?.into_iter().map(Device::whole).collect();
        disks.dedup();
        if let [disk] = disks.as_slice() {
            return disk.node().map(Some);
        }
    }
    Ok(None)
}

/// The device whose file system holds a directory.
pub(super) fn behind_directory(directory: &File) -> io::Result<Option<PathBuf>> {
    let number = directory.metadata()?.dev();
    if major(number) == 0 {
        return Ok(None);
    }
    Device::of(number)?.node().map(Some)
}

/// Where `CopyBlocks=auto` of a type copies from, and the UUID of that partition.
pub(super) fn auto_source(kind: PartitionType) -> io::Result<(PathBuf, Guid)> {
    let mounts: &[&str] = match kind.designator() {
        Designator::Root | Designator::RootVerity | Designator::RootVeritySig => &["/"],
        Designator::Usr | Designator::UsrVerity | Designator::UsrVeritySig => &["/usr"],
        Designator::Esp => &["/efi", "/boot"],
        Designator::Xbootldr => &["/boot"],
        _ => return Err(unknown(kind, "no mount point belongs to this type")),
    };
    for mount in mounts {
        let Some(device) = behind(Path::new(mount), *mount != "/")? else {
            continue;
        };
        let mut found = Vec::new();
        // Signature partitions are mapped by nobody: they are looked for beside the others.
        for part in device.below()? {
            let table = entries(&part.clone().whole())?;
            let own = part.partition();
            let is_sig = kind.is_verity_sig();
            for (number, of, uuid) in table {
                if of == kind && (is_sig || Some(u64::from(number)) == own) {
                    let node = sibling(&part, number)?;
                    if !found.contains(&(node.clone(), uuid)) {
                        found.push((node, uuid));
                    }
                }
            }
        }
        match found.as_slice() {
            [] => {}
            [one] => return Ok(one.clone()),
            _ => return Err(unknown(kind, "several partitions qualify")),
        }
    }
    Err(unknown(
        kind,
        "no partition of this type is behind the running system's mounts",
    ))
}

fn unknown(kind: PartitionType, why: &str) -> io::Error {
    let text = format!("CopyBlocks=auto for {}: {why}", kind.name_or_uuid());
    io::Error::new(io::ErrorKind::NotFound, text)
}

/// The node of another partition of the same disk.
fn sibling(partition: &Device, number: u32) -> io::Result<PathBuf> {
    let disk = partition.clone().whole();
    for entry in std::fs::read_dir(&disk.sysfs)? {
        let sysfs = entry?.path();
        if attribute(&sysfs, "partition") == Some(number.into()) {
            return Device { sysfs }.node();
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("the kernel does not know partition {number}"),
    ))
}

fn entries(disk: &Device) -> io::Result<Vec<(u32, PartitionType, Guid)>> {
    let node = disk.node()?;
    let disk = BlockDevice::from_file(File::open(&node)?, &node, None)?;
    let snapshot = observe(&disk).map_err(io::Error::other)?;
    Ok(match &snapshot.table {
        TableState::Gpt(gpt) => gpt
            .table
            .used()
            .map(|entry| (entry.number, entry.partition_type, entry.guid))
            .collect(),
        _ => Vec::new(),
    })
}

/// Nodes of disks that can have partitions, each followed by its links (`--list-devices`).
pub(super) fn list() -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/sys/block")? {
        let sysfs = entry?.path();
        let name = sysfs.file_name().unwrap_or_default().to_string_lossy();
        // `ext_range` of 1: no partitions. A size of 0: a drive without a medium, a loop device without a file.
        if name.starts_with("zram")
            || attribute(&sysfs, "ext_range") == Some(1)
            || attribute(&sysfs, "size") == Some(0)
        {
            continue;
        }
        let node = Device { sysfs }.node()?;
        if node.exists() {
            all.push(node);
        }
    }
    all.sort();
    let links = links()?;
    let with_links = all.into_iter().flat_map(|node| {
        let own = links.iter().filter(|(_, to)| *to == node);
        let own: Vec<PathBuf> = own.map(|(link, _)| link.clone()).collect();
        std::iter::once(node).chain(own)
    });
    Ok(with_links.collect())
}

/// What udev has put below `/dev/disk`, and where it leads.
fn links() -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let read = |path: &Path| match std::fs::read_dir(path) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let mut all = Vec::new();
    for dir in read(Path::new("/dev/disk"))? {
        for link in read(&dir.path())? {
            if let Ok(target) = link.path().canonicalize() {
                all.push((link.path(), target));
            }
        }
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_on_a_path_counts() {
        let text = "22 1 0:20 / / rw - btrfs /dev/vda2 rw\n\
                    23 22 0:21 / /usr rw,relatime shared:1 - overlay overlay rw\n\
                    24 22 0:22 / / rw - btrfs /dev/vdb3 rw,subvol=/\n";
        assert_eq!(
            mount_source(text, Path::new("/")),
            Some(PathBuf::from("/dev/vdb3"))
        );
        assert_eq!(mount_source(text, Path::new("/usr")), None);
        assert_eq!(mount_source(text, Path::new("/home")), None);
    }
}
