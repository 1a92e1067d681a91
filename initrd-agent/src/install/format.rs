//! Making an empty FAT32 volume where no table names a partition yet.

use std::io::{self, Read, Seek, SeekFrom, Write};

use repart::Disk;

use super::fat::{FatError, GATHER, io, seek};

/// A range of a disk, as it is: for formatting what no table names yet.
struct Raw<'a> {
    disk: &'a mut dyn Disk,
    start: u64,
    len: u64,
    at: u64,
    gathered: (u64, Vec<u8>),
}

impl Raw<'_> {
    fn spill(&mut self) -> io::Result<()> {
        let (at, bytes) = std::mem::take(&mut self.gathered);
        if bytes.is_empty() {
            return Ok(());
        }
        self.disk.write_at(self.start + at, &bytes)
    }
}

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.spill()?;
        let room = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = room.min(buffer.len());
        self.disk
            .read_at(self.start + self.at, &mut buffer[..len])?;
        self.at += u64::try_from(len).unwrap_or(0);
        Ok(len)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = room.min(bytes.len());
        let end = self.gathered.0 + u64::try_from(self.gathered.1.len()).unwrap_or(0);
        if end != self.at || self.gathered.1.len() >= GATHER {
            self.spill()?;
            self.gathered.0 = self.at;
        }
        self.gathered.1.extend_from_slice(&bytes[..len]);
        self.at += u64::try_from(len).unwrap_or(0);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.spill()
    }
}

impl Seek for Raw<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = seek(self.at, self.len, to)?;
        Ok(self.at)
    }
}

/// Fewest clusters that make a volume FAT32.
const FAT32_CLUSTERS: u64 = 65525;

/// The cluster size for a new volume: 4 KiB, or what FAT32 still allows at this length.
pub(super) fn cluster_size(len: u64, sector: u64) -> u64 {
    let mut cluster = 4096.max(sector);
    while cluster > sector && len / cluster < FAT32_CLUSTERS + FAT32_CLUSTERS / 32 {
        cluster /= 2;
    }
    cluster
}

/// Makes an empty FAT32 volume in a range that nothing names yet.
pub(super) fn format(
    disk: &mut dyn Disk,
    start: u64,
    len: u64,
    label: &str,
    id: u32,
) -> Result<(), FatError> {
    let too_large = || FatError::NotFat("a new one cannot be that large");
    let sector = u64::from(disk.sector_size());
    let mut name = [b' '; 11];
    for (to, from) in name.iter_mut().zip(label.bytes()) {
        *to = if from.is_ascii_alphanumeric() {
            from.to_ascii_uppercase()
        } else {
            b'_'
        };
    }
    let cluster = cluster_size(len, sector);
    let options = fatfs::FormatVolumeOptions::new()
        .bytes_per_sector(u16::try_from(sector).map_err(|_| too_large())?)
        .bytes_per_cluster(u32::try_from(cluster).map_err(|_| too_large())?)
        .total_sectors(u32::try_from(len / sector).map_err(|_| too_large())?)
        .fat_type(fatfs::FatType::Fat32)
        .volume_label(name)
        .volume_id(id);
    let mut raw = Raw {
        disk,
        start,
        len,
        at: 0,
        gathered: (0, Vec::new()),
    };
    fatfs::format_volume(&mut raw, options).map_err(io("make a FAT file system"))?;
    raw.spill().map_err(io("write a FAT file system"))?;
    disk.flush().map_err(io("write a FAT file system"))
}
