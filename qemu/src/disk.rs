//! Disk images of machines: sparse raw files, and how they are plugged in.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, file};

/// How a disk is connected: each needs another driver in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk over PCI.
    Virtio,
    /// NVMe.
    Nvme,
    /// SATA on the AHCI controller of the q35 board.
    Ahci,
    /// A stick on an xHCI controller.
    Usb,
}

/// A disk of a machine. The file is the machine's own: writes are kept over boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The raw image.
    pub path: PathBuf,
    /// How it is connected.
    pub bus: Bus,
    /// The serial number the guest sees.
    pub serial: String,
    /// Discarded blocks read as zeroes; else they keep what they held, as on many disks.
    pub forgets: bool,
}

impl Disk {
    /// A new disk at `path` with the contents of `image`.
    pub fn copy_of(image: &Path, path: &Path) -> Result<Self> {
        copy(image, path)?;
        Ok(Self::existing(path))
    }

    /// A new disk at `path` of `bytes` zero bytes.
    pub fn blank(path: &Path, bytes: u64) -> Result<Self> {
        let image = File::create(path).map_err(file("create", path))?;
        image
            .set_len(bytes)
            .map_err(file("set the size of", path))?;
        Ok(Self::existing(path))
    }

    /// A disk over an image that exists.
    #[must_use]
    pub fn existing(path: &Path) -> Self {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let serial = stem
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(20)
            .collect();
        Self {
            path: path.to_path_buf(),
            bus: Bus::Virtio,
            serial,
            forgets: true,
        }
    }

    /// The same disk on another bus.
    #[must_use]
    pub fn on(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// The same disk with something else than zeroes from `offset` on for `length` bytes, which discarding does not remove.
    pub fn used(mut self, offset: u64, length: u64) -> Result<Self> {
        const PIECE: usize = 1 << 20;
        let image = File::options()
            .write(true)
            .open(&self.path)
            .map_err(file("open", &self.path))?;
        let mut at = offset;
        while at < offset + length {
            let piece = usize::try_from(offset + length - at).map_or(PIECE, |left| left.min(PIECE));
            image
                .write_all_at(&vec![0xff; piece], at)
                .map_err(file("write", &self.path))?;
            at += piece as u64;
        }
        self.forgets = false;
        Ok(self)
    }

    /// Makes the disk this long, as `dd` onto a larger or smaller medium would.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        let image = File::options()
            .write(true)
            .open(&self.path)
            .map_err(file("open", &self.path))?;
        image
            .set_len(bytes)
            .map_err(file("set the size of", &self.path))
    }

    /// Makes another byte of the one at `offset`.
    pub fn flip(&self, offset: u64) -> Result<()> {
        let image = File::options()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(file("open", &self.path))?;
        let mut byte = [0];
        image
            .read_exact_at(&mut byte, offset)
            .map_err(file("read", &self.path))?;
        image
            .write_all_at(&byte.map(|byte| !byte), offset)
            .map_err(file("write", &self.path))
    }

    /// Loses a part.
    pub fn zero(&self, offset: u64, length: usize) -> Result<()> {
        let image = File::options()
            .write(true)
            .open(&self.path)
            .map_err(file("open", &self.path))?;
        image
            .write_all_at(&vec![0; length], offset)
            .map_err(file("write", &self.path))
    }

    /// Waits until the guest has written this many more bytes than there are now, to places that held nothing.
    pub fn wait_written(&self, bytes: u64, deadline: Duration) -> Result<()> {
        let held = || {
            Ok::<_, Error>(
                fs::metadata(&self.path)
                    .map_err(file("inspect", &self.path))?
                    .blocks()
                    * 512,
            )
        };
        let (goal, until) = (held()? + bytes, Instant::now() + deadline);
        while held()? < goal {
            if Instant::now() > until {
                let path = self.path.display();
                return Err(Error::Unexpected(format!(
                    "{bytes} bytes were not written to {path} in {deadline:?}"
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// QEMU's arguments for the disk with this number; the first is the first in the boot order too.
    pub(crate) fn arguments(&self, number: usize) -> Vec<String> {
        let path = escaped(&self.path);
        let id = format!("disk{number}");
        let common = format!("drive={id},serial={},bootindex={}", self.serial, number + 1);
        let device = match self.bus {
            Bus::Virtio => format!("virtio-blk-pci,{common}"),
            Bus::Nvme => format!("nvme,{common}"),
            Bus::Ahci => format!("ide-hd,bus=ide.{number},{common}"),
            Bus::Usb => format!("usb-storage,bus=usb.0,{common}"),
        };
        let blocks = if self.forgets {
            "discard=unmap,detect-zeroes=unmap"
        } else {
            "discard=ignore,detect-zeroes=off"
        };
        let drive = format!("if=none,id={id},format=raw,cache=unsafe,{blocks},file={path}");
        vec!["-drive".into(), drive, "-device".into(), device]
    }
}

/// Copies an image with its holes.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).map_err(file("create", dir))?;
    }
    let mut command = crate::evidence::program("cp");
    command
        .args(["--reflink=auto", "--sparse=always", "--"])
        .arg(from)
        .arg(to);
    crate::evidence::output(&mut command).map(drop)
}

/// A path inside one of QEMU's comma-separated options.
pub(crate) fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
