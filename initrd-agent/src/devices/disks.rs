//! Whole disks and their partitions, as /sys/class/block shows them.
//!
//! Invariant: a node is opened by name and believed only if it is the device number that /sys names; a disk is known by
//! its sequence number, so that another one plugged into the same name is not taken for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::DevicesError;

/// What is never the machine's own disk: made by software, or too old to boot from.
const NEVER: [&str; 7] = ["loop", "ram", "dm-", "zram", "fd", "nbd", "mtdblock"];
/// /sys counts sizes in these, whatever the disk's own sectors are.
const SYSFS_SECTOR: u64 = 512;

/// A whole disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name, `vda`.
    pub name: String,
    /// Its node below the root's /dev.
    pub node: PathBuf,
    /// Major and minor number.
    pub devnum: (u32, u32),
    /// Bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Number of its appearance (Linux 5.15); 0 if the kernel does not tell.
    pub sequence: u64,
    /// Whether writing is impossible.
    pub read_only: bool,
    sysfs: PathBuf,
}

/// A partition the kernel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number in the table.
    pub number: u32,
    /// Its node.
    pub node: PathBuf,
    /// Major and minor number.
    pub devnum: (u32, u32),
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// All whole disks below `root`, by name. A disk that goes away meanwhile is not among them.
pub fn list(root: &Path) -> Result<Vec<Disk>, DevicesError> {
    let class = root.join("sys/class/block");
    let failed = |source| DevicesError::Read {
        path: class.clone(),
        source,
    };
    let entries = match fs::read_dir(&class) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut disks = Vec::new();
    for entry in entries {
        let name = entry
            .map_err(failed)?
            .file_name()
            .to_string_lossy()
            .into_owned();
        disks.extend(disk(root, &name));
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(disks)
}

/// The disk of this name, if it is a whole one with something on it.
#[must_use]
pub fn disk(root: &Path, name: &str) -> Option<Disk> {
    if NEVER.iter().any(|prefix| name.starts_with(prefix)) || is_mmc_part(name) {
        return None;
    }
    let sysfs = root.join("sys/class/block").join(name);
    let size = number(&sysfs.join("size"))?.checked_mul(SYSFS_SECTOR)?;
    if size == 0 || sysfs.join("partition").exists() || number(&sysfs.join("hidden")) == Some(1) {
        return None;
    }
    Some(Disk {
        node: node(root, name),
        devnum: devnum(&sysfs)?,
        size,
        sector_size: number(&sysfs.join("queue/logical_block_size"))
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(512),
        sequence: number(&sysfs.join("diskseq")).unwrap_or(0),
        read_only: number(&sysfs.join("ro")) == Some(1),
        name: name.to_owned(),
        sysfs,
    })
}

/// One line about all disks, for whoever misses one.
#[must_use]
pub fn describe(root: &Path) -> String {
    match list(root) {
        Err(error) => error.to_string(),
        Ok(disks) if disks.is_empty() => "no disk at all".to_owned(),
        Ok(disks) => disks
            .iter()
            .map(Disk::describe)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

impl Disk {
    /// The maker's name for it, or nothing.
    #[must_use]
    pub fn model(&self) -> Option<String> {
        text(&self.sysfs.join("device/model"))
    }

    /// Its serial number, or nothing. virtio has it at the disk, NVMe at the controller.
    #[must_use]
    pub fn serial(&self) -> Option<String> {
        text(&self.sysfs.join("serial")).or_else(|| text(&self.sysfs.join("device/serial")))
    }

    /// For people: node, size, model and serial.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut line = format!("{} ({} MiB", self.node.display(), self.size >> 20);
        for part in [self.model(), self.serial()].into_iter().flatten() {
            line.push_str(", ");
            line.push_str(&part);
        }
        line.push(')');
        line
    }

    /// Opens the disk, for writing too if asked, and makes sure it is still the same one.
    pub fn open(&self, write: bool) -> Result<File, DevicesError> {
        let file = open(&self.node, self.devnum, write)?;
        let other = || DevicesError::OtherDevice {
            node: self.node.clone(),
            expected: self.devnum,
        };
        if self.sequence != 0 {
            let sequence =
                sys::block::disk_sequence(file.as_fd()).map_err(|source| DevicesError::Open {
                    node: self.node.clone(),
                    source,
                })?;
            if sequence != self.sequence {
                return Err(other());
            }
        }
        Ok(file)
    }

    /// Partition `number`, if the kernel knows it: `vda3`, or `nvme0n1p3` where the disk's name ends in a digit.
    #[must_use]
    pub fn partition(&self, number: u32) -> Option<Partition> {
        let infix = if self.name.ends_with(|c: char| c.is_ascii_digit()) {
            "p"
        } else {
            ""
        };
        let name = format!("{}{infix}{number}", self.name);
        let sysfs = self.sysfs.join(&name);
        if self::number(&sysfs.join("partition")) != Some(number.into()) {
            return None;
        }
        Some(Partition {
            number,
            node: self.node.with_file_name(format!(
                "{}{infix}{number}",
                self.node.file_name()?.to_str()?
            )),
            devnum: devnum(&sysfs)?,
            offset: self::number(&sysfs.join("start"))?.checked_mul(SYSFS_SECTOR)?,
            size: self::number(&sysfs.join("size"))?.checked_mul(SYSFS_SECTOR)?,
        })
    }
}

impl Partition {
    /// Opens it, for writing too if asked.
    pub fn open(&self, write: bool) -> Result<File, DevicesError> {
        open(&self.node, self.devnum, write)
    }

    /// Whether its node is there already: the kernel shows a partition in /sys a moment before devtmpfs has it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        fs::metadata(&self.node).is_ok_and(|meta| is(&meta, self.devnum))
    }
}

fn open(node: &Path, devnum: (u32, u32), write: bool) -> Result<File, DevicesError> {
    let failed = |source| DevicesError::Open {
        node: node.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .open(node)
        .map_err(failed)?;
    if is(&file.metadata().map_err(failed)?, devnum) {
        Ok(file)
    } else {
        Err(DevicesError::OtherDevice {
            node: node.to_owned(),
            expected: devnum,
        })
    }
}

fn is(meta: &fs::Metadata, (major, minor): (u32, u32)) -> bool {
    let rdev = meta.rdev();
    meta.file_type().is_block_device()
        && (rustix::fs::major(rdev), rustix::fs::minor(rdev)) == (major, minor)
}

/// The kernel writes `!` in /sys where the node has a directory.
fn node(root: &Path, name: &str) -> PathBuf {
    root.join("dev").join(name.replace('!', "/"))
}

/// Boot and replay-protected areas of an eMMC look like whole disks.
fn is_mmc_part(name: &str) -> bool {
    name.strip_prefix("mmcblk")
        .is_some_and(|rest| rest.contains("boot") || rest.contains("rpmb"))
}

fn devnum(sysfs: &Path) -> Option<(u32, u32)> {
    let text = text(&sysfs.join("dev"))?;
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
