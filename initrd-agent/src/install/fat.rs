//! A FAT volume inside a range of a disk, written so that a cut never harms what was there.
//!
//! `fatfs` writes in an order of its own. Here its writes into clusters that were free when the window was opened go
//! to the disk at once; everything else is held back until [`Window::commit`], which writes the tables, then each
//! directory sector in the order it was first touched, with a flush between. Invariant: before the last directory
//! sector is written a new file does not exist, after it the file is whole; a cut costs lost clusters at most.
//! Source: Microsoft, "FAT: General Overview of On-Disk Format" 1.03.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use repart::Disk;

/// Direct writes are gathered up to this much.
pub(super) const GATHER: usize = 1 << 20;
/// The largest FAT there can be is 1 GiB; those of boot partitions have a few MiB.
const META_MAX: u64 = 256 << 20;

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// Not FAT, or damaged.
    #[error("no usable FAT file system: {0}")]
    NotFat(&'static str),
    /// The disk, or the file system on the way.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// What was read back is not what was written.
    #[error("{path} reads back with another BLAKE3 hash: {found}, written was {wanted}")]
    ReadBack {
        /// Path in the volume.
        path: String,
        /// Hash of what was read.
        found: String,
        /// Hash of the source.
        wanted: String,
    },
}

/// Turns an I/O error into one that says what was being done.
pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> FatError {
    let what = what.into();
    move |source| FatError::Io { what, source }
}

/// How volumes are opened: with times that are valid, and the same on every run.
pub(super) fn options() -> fatfs::FsOptions {
    fatfs::FsOptions::new().time_provider(&Epoch)
}

/// The first moment FAT can name; without a clock `fatfs` writes a day and month of zero.
#[derive(Debug)]
struct Epoch;

impl fatfs::TimeProvider for Epoch {
    fn get_current_date(&self) -> fatfs::Date {
        fatfs::Date {
            year: 1980,
            month: 1,
            day: 1,
        }
    }

    fn get_current_date_time(&self) -> fatfs::DateTime {
        fatfs::DateTime {
            date: self.get_current_date(),
            time: fatfs::Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

/// Where things are in a volume; bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    /// Clusters.
    pub(super) clusters: u64,
    tables: u64,
    /// The root directory of FAT12 and FAT16.
    root: u64,
    data: u64,
    /// Bits of a table entry.
    bits: u64,
    /// FAT32: the sector with the hints about free clusters.
    hints: u64,
    /// FAT32: the cluster of the root directory.
    root_cluster: u64,
}

impl Geometry {
    fn parse(boot: &[u8]) -> Result<Self, &'static str> {
        let byte = |at: usize| boot.get(at).copied().map(u64::from).ok_or("short");
        let word = |at: usize| Ok::<_, &'static str>(byte(at)? | byte(at + 1)? << 8);
        let long = |at: usize| Ok::<_, &'static str>(word(at)? | word(at + 2)? << 16);
        let either = |small: u64, large: u64| if small == 0 { large } else { small };
        if word(510)? != 0xaa55 {
            return Err("no boot signature");
        }
        let (sector, per_cluster, reserved, fats) = (word(11)?, byte(13)?, word(14)?, byte(16)?);
        if !sector.is_power_of_two() || !(512..=4096).contains(&sector) {
            return Err("no sane sector size");
        }
        if !per_cluster.is_power_of_two() || reserved == 0 || !(1..=2).contains(&fats) {
            return Err("no sane layout");
        }
        let per_fat = either(word(22)?, long(36)?);
        let total = either(word(19)?, long(32)?);
        let root = reserved + fats * per_fat;
        let data = root + (word(17)? * 32).div_ceil(sector);
        let clusters = total.checked_sub(data).ok_or("smaller than its tables")? / per_cluster;
        let bits = match clusters {
            0..4085 => 12,
            4085..65525 => 16,
            _ => 32,
        };
        if clusters == 0 || per_fat * sector * 8 < (clusters + 2) * bits {
            return Err("its table is too short");
        }
        if root * sector > META_MAX {
            return Err("its tables are too long");
        }
        Ok(Self {
            cluster: per_cluster * sector,
            clusters,
            tables: reserved * sector,
            root: root * sector,
            data: data * sector,
            bits,
            hints: if bits == 32 { word(48)? * sector } else { 0 },
            root_cluster: if bits == 32 { long(44)? } else { 0 },
        })
    }

    /// The table entry of a cluster.
    fn entry(&self, meta: &[u8], cluster: u64) -> u32 {
        let bit = cluster * self.bits;
        let at = usize::try_from(self.tables + bit / 8).unwrap_or(usize::MAX);
        let bytes: [u8; 4] =
            std::array::from_fn(|i| meta.get(at.saturating_add(i)).copied().unwrap_or(0xff));
        let raw = u32::from_le_bytes(bytes);
        match self.bits {
            12 if bit % 8 == 4 => raw >> 4 & 0xfff,
            12 => raw & 0xfff,
            16 => raw & 0xffff,
            _ => raw & 0x0fff_ffff,
        }
    }

    /// A cluster that is the last of its file.
    fn is_last(&self, meta: &[u8], cluster: u64) -> bool {
        self.entry(meta, cluster) & 0xff8 == 0xff8
    }
}

/// Bytes of a directory entry.
const SLOT: usize = 32;

/// The first four slots of a new directory as they should be; `None` if this is no such directory.
fn mend(slots: &[u8; 4 * SLOT], cluster: u64, root: u64) -> Option<[u8; 4 * SLOT]> {
    let slot = |at: usize| &slots[at * SLOT..(at + 1) * SLOT];
    let number = |slot: &[u8]| {
        let half = |at: usize| u64::from(u16::from_le_bytes([slot[at], slot[at + 1]]));
        half(20) << 16 | half(26)
    };
    let long = |slot: &[u8]| slot[0] == 0x41 && slot[11] == 0x0f;
    let short = |slot: &[u8], name: &[u8; 11]| slot[..11] == *name && slot[11] == 0x10;
    let is_new = long(slot(0))
        && short(slot(1), b".          ")
        && number(slot(1)) == cluster
        && long(slot(2))
        && short(slot(3), b"..         ");
    if !is_new {
        return None;
    }
    let mut mended = [0; 4 * SLOT];
    mended[..SLOT].copy_from_slice(slot(1));
    mended[SLOT..2 * SLOT].copy_from_slice(slot(3));
    if number(slot(3)) == root {
        mended[SLOT + 20..SLOT + 22].fill(0);
        mended[SLOT + 26..SLOT + 28].fill(0);
    }
    // Unused slots: a zero would end the directory here.
    mended[2 * SLOT] = 0xe5;
    mended[3 * SLOT] = 0xe5;
    Some(mended)
}

enum Access<'a> {
    Read(&'a dyn Disk),
    Write(&'a mut dyn Disk),
}

impl Access<'_> {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Read(disk) => disk.read_at(offset, buffer),
            Self::Write(disk) => disk.read_at(offset, buffer),
        }
    }

    fn disk(&mut self) -> io::Result<&mut dyn Disk> {
        match self {
            Self::Read(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Self::Write(disk) => Ok(&mut **disk),
        }
    }
}

/// What `fatfs` sees: the volume with what is held back laid over it.
pub(super) struct Window<'a> {
    access: Access<'a>,
    start: u64,
    len: u64,
    at: u64,
    sector: u64,
    geometry: Geometry,
    /// Everything before the root directory, as it will be.
    meta: Vec<u8>,
    /// The same as it is on the disk.
    meta_on_disk: Vec<u8>,
    free: Vec<bool>,
    /// Sectors (numbers) behind `meta` that wait for the commit, with the time of their first write.
    held: BTreeMap<u64, (usize, Vec<u8>)>,
    /// Contiguous bytes for free clusters that were not written yet, and where they go.
    gathered: (u64, Vec<u8>),
}

impl<'a> Window<'a> {
    /// The volume at `start`, to be read.
    pub(super) fn read(disk: &'a dyn Disk, start: u64, len: u64) -> Result<Self, FatError> {
        let sector = disk.sector_size();
        Self::open(Access::Read(disk), start, len, sector)
    }

    /// The volume at `start`, to be added to.
    pub(super) fn write(disk: &'a mut dyn Disk, start: u64, len: u64) -> Result<Self, FatError> {
        let sector = disk.sector_size();
        Self::open(Access::Write(disk), start, len, sector)
    }

    fn open(access: Access<'a>, start: u64, len: u64, sector: u32) -> Result<Self, FatError> {
        let mut boot = vec![0; 512];
        if len < 512 {
            return Err(FatError::NotFat("no room for a boot sector"));
        }
        access
            .read(start, &mut boot)
            .map_err(io("read the boot sector"))?;
        let geometry = Geometry::parse(&boot).map_err(FatError::NotFat)?;
        if geometry.data + geometry.clusters * geometry.cluster > len {
            return Err(FatError::NotFat("longer than its partition"));
        }
        let mut meta = vec![0; usize::try_from(geometry.root).unwrap_or(0)];
        access
            .read(start, &mut meta)
            .map_err(io("read the allocation table"))?;
        let free = (0..geometry.clusters + 2)
            .map(|cluster| cluster >= 2 && geometry.entry(&meta, cluster) == 0)
            .collect();
        let mut window = Self {
            access,
            start,
            len,
            at: 0,
            sector: u64::from(sector),
            geometry,
            meta_on_disk: meta.clone(),
            meta,
            free,
            held: BTreeMap::new(),
            gathered: (0, Vec::new()),
        };
        window.correct_hints();
        Ok(window)
    }

    /// `fatfs` counts down from the number of free clusters that the volume keeps, which others may have left wrong.
    fn correct_hints(&mut self) {
        let at = usize::try_from(self.geometry.hints).unwrap_or(0);
        let free = u32::try_from(self.free_clusters()).unwrap_or(u32::MAX);
        let valid = at > 0 && self.meta.get(at..at + 4) == Some(b"RRaA");
        if let (Access::Write(_), true, Some(count)) =
            (&self.access, valid, self.meta.get_mut(at + 488..at + 492))
        {
            count.copy_from_slice(&free.to_le_bytes());
        }
    }

    /// Its geometry.
    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Clusters that nothing uses, counted (the number the volume keeps may be wrong).
    pub(super) fn free_clusters(&self) -> u64 {
        u64::try_from(self.free.iter().filter(|free| **free).count()).unwrap_or(0)
    }

    /// Makes everything durable, in the order that the module's invariant asks for.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        self.spill()?;
        self.mend_directories()?;
        self.access.disk()?.flush()?;
        let tables = self.geometry.tables;
        self.write_meta(tables..self.geometry.root)?;
        let mut held: Vec<(u64, (usize, Vec<u8>))> =
            std::mem::take(&mut self.held).into_iter().collect();
        held.sort_by_key(|(_, (time, _))| *time);
        for (sector, (_, bytes)) in held {
            let offset = self.start + sector * self.sector;
            let disk = self.access.disk()?;
            disk.write_at(offset, &bytes)?;
            disk.flush()?;
        }
        self.write_meta(0..tables)
    }

    /// `fatfs` 0.3 gives `.` and `..` of a new directory long names too, and lets `..` below the root name the root's
    /// cluster: neither is allowed. Such a directory is recognised by its `.` entry, which names its own cluster.
    fn mend_directories(&mut self) -> io::Result<()> {
        let geometry = self.geometry;
        for cluster in 2..geometry.clusters + 2 {
            let was_free = usize::try_from(cluster).is_ok_and(|at| self.free[at]);
            if !was_free || !geometry.is_last(&self.meta, cluster) {
                continue;
            }
            let at = self.start + geometry.data + (cluster - 2) * geometry.cluster;
            let mut slots = [0; 4 * SLOT];
            self.access.read(at, &mut slots)?;
            if let Some(mended) = mend(&slots, cluster, geometry.root_cluster) {
                self.access.disk()?.write_at(at, &mended)?;
            }
        }
        Ok(())
    }

    fn write_meta(&mut self, range: std::ops::Range<u64>) -> io::Result<()> {
        let step = usize::try_from(self.sector).unwrap_or(512);
        let limit = usize::try_from(range.end).unwrap_or(0);
        let mut at = usize::try_from(range.start).unwrap_or(0);
        let mut any = false;
        while at < limit {
            let end = (at + step).min(limit);
            if self.meta[at..end] != self.meta_on_disk[at..end] {
                let offset = self.start + u64::try_from(at).unwrap_or(0);
                self.access.disk()?.write_at(offset, &self.meta[at..end])?;
                any = true;
            }
            at = end;
        }
        if any {
            self.access.disk()?.flush()
        } else {
            Ok(())
        }
    }

    /// Writes what was gathered.
    fn spill(&mut self) -> io::Result<()> {
        let (at, bytes) = std::mem::take(&mut self.gathered);
        if bytes.is_empty() {
            return Ok(());
        }
        let offset = self.start + at;
        self.access.disk()?.write_at(offset, &bytes)
    }

    /// How many of `len` bytes from `at` lie in one place: the tables, a free cluster, a sector that is held back.
    fn place(&self, at: u64, len: usize) -> (Place, usize) {
        let geometry = &self.geometry;
        let (place, end) = if at < geometry.root {
            (Place::Meta, geometry.root)
        } else if at < geometry.data {
            (Place::Held, geometry.data.min(self.sector_end(at)))
        } else {
            let cluster = (at - geometry.data) / geometry.cluster;
            let end = geometry.data + (cluster + 1) * geometry.cluster;
            let number = usize::try_from(cluster + 2).unwrap_or(usize::MAX);
            if self.free.get(number).copied().unwrap_or(false) {
                (Place::Free, end)
            } else {
                (Place::Held, end.min(self.sector_end(at)))
            }
        };
        let room = usize::try_from(end.min(self.len).saturating_sub(at)).unwrap_or(usize::MAX);
        (place, room.min(len))
    }

    fn sector_end(&self, at: u64) -> u64 {
        (at / self.sector + 1) * self.sector
    }

    fn hold(&mut self, bytes: &[u8]) -> io::Result<()> {
        let number = self.at / self.sector;
        let time = self.held.len();
        if !self.held.contains_key(&number) {
            let mut old = vec![0; usize::try_from(self.sector).unwrap_or(512)];
            self.access
                .read(self.start + number * self.sector, &mut old)?;
            self.held.insert(number, (time, old));
        }
        let from = usize::try_from(self.at % self.sector).unwrap_or(0);
        if let Some((_, sector)) = self.held.get_mut(&number)
            && let Some(target) = sector.get_mut(from..from + bytes.len())
        {
            target.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn gather(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.gathered.0 + u64::try_from(self.gathered.1.len()).unwrap_or(0);
        if end != self.at || self.gathered.1.len() >= GATHER {
            self.spill()?;
            self.gathered.0 = self.at;
        }
        self.gathered.1.extend_from_slice(bytes);
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Meta,
    Free,
    Held,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (place, len) = self.place(self.at, buffer.len());
        let buffer = &mut buffer[..len];
        let from = usize::try_from(self.at).unwrap_or(usize::MAX);
        match place {
            Place::Meta => buffer.copy_from_slice(&self.meta[from..from + len]),
            Place::Free => {
                self.spill()?;
                self.access.read(self.start + self.at, buffer)?;
            }
            Place::Held => match self.held.get(&(self.at / self.sector)) {
                Some((_, sector)) => {
                    let from = usize::try_from(self.at % self.sector).unwrap_or(0);
                    buffer.copy_from_slice(&sector[from..from + len]);
                }
                None => self.access.read(self.start + self.at, buffer)?,
            },
        }
        self.at += u64::try_from(len).unwrap_or(0);
        Ok(len)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (place, len) = self.place(self.at, bytes.len());
        let bytes = &bytes[..len];
        if let Access::Read(_) = self.access {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        match place {
            Place::Meta => {
                let from = usize::try_from(self.at).unwrap_or(usize::MAX);
                self.meta[from..from + len].copy_from_slice(bytes);
            }
            Place::Free => self.gather(bytes)?,
            Place::Held => self.hold(bytes)?,
        }
        self.at += u64::try_from(len).unwrap_or(0);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = seek(self.at, self.len, to)?;
        Ok(self.at)
    }
}

pub(super) fn seek(at: u64, len: u64, to: SeekFrom) -> io::Result<u64> {
    let new = match to {
        SeekFrom::Start(at) => Some(at),
        SeekFrom::Current(by) => at.checked_add_signed(by),
        SeekFrom::End(by) => len.checked_add_signed(by),
    };
    new.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
