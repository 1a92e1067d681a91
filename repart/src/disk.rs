//! The disk as bytes: one narrow trait, and its implementation over a file or block device.
//!
//! Invariant: nothing here knows about tables; a write is durable only after [`Disk::flush`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// A disk. Offsets and lengths in bytes; reads and writes are whole or an error.
#[expect(
    clippy::len_without_is_empty,
    reason = "an empty disk is an error of the caller, not a question"
)]
pub trait Disk {
    /// Bytes.
    fn len(&self) -> u64;
    /// Logical block size in bytes: a power of two, 512 to 4096.
    fn sector_size(&self) -> u32;
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// The device's, or a read past the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes `data` at `offset`; not durable before [`Disk::flush`].
    ///
    /// # Errors
    /// The device's, or a write past the end.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes all earlier writes durable.
    ///
    /// # Errors
    /// The device's.
    fn flush(&mut self) -> io::Result<()>;
    /// Tells the device that the range holds nothing of value. Advice: the content afterwards is undefined.
    ///
    /// # Errors
    /// The device's, also "not supported".
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;
}

/// A block device or an image file.
#[derive(Debug)]
pub struct BlockDevice {
    file: File,
    path: PathBuf,
    len: u64,
    sector_size: u32,
    is_block: bool,
}

impl BlockDevice {
    /// Opens `path`. The sector size is, in this order: the given one, the device's logical one, the one at
    /// which an image file has a GPT header, 512.
    ///
    /// # Errors
    /// Opening, measuring, or a sector size that is no power of two in 512…4096.
    pub fn open(path: &Path, writable: bool, sector_size: Option<u32>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(writable).open(path)?;
        Self::from_file(file, path, sector_size)
    }

    /// As [`BlockDevice::open`], over an open file.
    ///
    /// # Errors
    /// As [`BlockDevice::open`].
    pub fn from_file(file: File, path: &Path, sector_size: Option<u32>) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let is_block = metadata.file_type().is_block_device();
        let len = if is_block {
            sys::block::size(file.as_fd())?
        } else {
            metadata.len()
        };
        let sector_size = match sector_size {
            Some(size) => size,
            None if is_block => sys::block::sector_size(file.as_fd())?,
            None => probe_sector_size(&file)?,
        };
        if !(512..=4096).contains(&sector_size) || !sector_size.is_power_of_two() {
            let text = format!("sector size {sector_size} is no power of two in 512…4096");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            sector_size,
            is_block,
        })
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A device, as opposed to an image file.
    #[must_use]
    pub fn is_block(&self) -> bool {
        self.is_block
    }

    /// The open file, e.g. for the kernel's partition ioctls.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes an image file longer. Never shorter; a device's size is its own.
    ///
    /// # Errors
    /// The file system's, or a device.
    pub fn grow(&mut self, len: u64) -> io::Result<()> {
        if len <= self.len {
            return Ok(());
        }
        if self.is_block {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a block device cannot be made larger",
            ));
        }
        self.file.set_len(len)?;
        self.len = len;
        Ok(())
    }
}

impl Disk for BlockDevice {
    fn len(&self) -> u64 {
        self.len
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = u64::try_from(data.len())
            .ok()
            .and_then(|len| offset.checked_add(len));
        if end.is_none_or(|end| end > self.len) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "write past the end of the disk",
            ));
        }
        self.file.write_all_at(data, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        if self.is_block {
            return sys::block::discard(self.file.as_fd(), offset, len);
        }
        fallocate(
            &self.file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        )
        .map_err(io::Error::from)
    }
}

fn probe_sector_size(file: &File) -> io::Result<u32> {
    for size in [512u32, 1024, 2048, 4096] {
        let mut signature = [0; 8];
        match file.read_exact_at(&mut signature, u64::from(size)) {
            Ok(()) if signature == *b"EFI PART" => return Ok(size),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    Ok(512)
}
