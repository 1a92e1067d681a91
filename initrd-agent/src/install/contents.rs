//! Filling new partitions: copy, flush, read back, compare. The table comes after, from `repart::apply`.

use std::io;

use repart::definition::{CopyBlocks, Format};
use repart::{Contents, ContentsError, Disk, Plan, PlannedPartition};

use super::fat::{self, FatError};
use super::format;
use super::place::{self, Placement, Volume};
use super::progress::Progress;
use super::source::{Part, Source};

const BLOCK: usize = 1 << 20;

/// What lies beyond the bytes of the target.
pub(super) trait Target {
    /// What was written and flushed is from now on read from the medium, not from memory.
    fn forget(&self) -> io::Result<()>;
    /// Makes a new partition known.
    fn announce(&self, number: u32, offset: u64, size: u64) -> io::Result<()>;
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("cannot read {what} at offset {offset}")]
    Read {
        what: String,
        offset: u64,
        source: io::Error,
    },
    #[error("cannot write at offset {offset}")]
    Write { offset: u64, source: io::Error },
    #[error("cannot make the copy durable")]
    Flush(#[source] io::Error),
    #[error(
        "partition {number} reads back with another BLAKE3 hash: {found}, written was {wanted}; the medium is not to be trusted"
    )]
    ReadBack {
        number: u32,
        found: blake3::Hash,
        wanted: blake3::Hash,
    },
    #[error("it has {there} bytes, its content {need}")]
    Short { there: u64, need: u64 },
    #[error("cannot tell the kernel about partition {number}")]
    Announce { number: u32, source: io::Error },
}

/// repart's [`Contents`] of an installation.
pub(super) struct Installer<'a> {
    pub(super) source: &'a Source,
    pub(super) placement: &'a Placement,
    pub(super) target: &'a dyn Target,
    pub(super) progress: &'a mut Progress,
}

impl Installer<'_> {
    /// Bytes that will be read or written for this plan.
    pub(super) fn total(plan: &Plan, placement: &Placement, source: &Source) -> u64 {
        let parts = plan
            .created()
            .filter_map(|it| part_of(source, it))
            .map(|part| part.size);
        2 * (parts.sum::<u64>() + placement.bytes(source))
    }

    /// Brings the missing files into a volume and reads them back.
    pub(super) fn fill(&mut self, disk: &mut dyn Disk, volume: &Volume) -> Result<(), FatError> {
        for put in volume.missing() {
            self.progress.begin(&put.path);
            let mut tell = |bytes| self.progress.add(bytes);
            place::put(disk, volume, put, self.source, &mut tell)?;
        }
        self.target.forget().map_err(fat::io("empty the cache"))?;
        for put in volume.missing() {
            self.progress.begin(&format!("reading back {}", put.path));
            let mut tell = |bytes| self.progress.add(bytes);
            place::verify(disk, volume, put, self.source, &mut tell)?;
        }
        Ok(())
    }

    fn copy(
        &mut self,
        disk: &mut dyn Disk,
        partition: &PlannedPartition,
        part: &Part,
    ) -> Result<(), CopyError> {
        self.progress.begin(&partition.label);
        let wanted = self.write(disk, partition, part)?;
        disk.flush().map_err(CopyError::Flush)?;
        self.target.forget().map_err(CopyError::Flush)?;
        self.progress
            .begin(&format!("reading back {}", partition.label));
        let found = self.read_back(disk, partition, part)?;
        if found == wanted {
            return Ok(());
        }
        Err(CopyError::ReadBack {
            number: partition.number,
            found,
            wanted,
        })
    }

    fn write(
        &mut self,
        disk: &mut dyn Disk,
        partition: &PlannedPartition,
        part: &Part,
    ) -> Result<blake3::Hash, CopyError> {
        let mut hasher = blake3::Hasher::new();
        let (mut buffer, mut there) = (vec![0; BLOCK], vec![0; BLOCK]);
        let mut at = 0;
        while at < part.size {
            let len = usize::try_from(part.size - at).map_or(BLOCK, |left| left.min(BLOCK));
            let (bytes, there) = (&mut buffer[..len], &mut there[..len]);
            let (from, to) = (part.offset + at, partition.offset + at);
            self.source
                .disk
                .read_at(from, bytes)
                .map_err(|source| CopyError::Read {
                    what: self.source.name.clone(),
                    offset: from,
                    source,
                })?;
            hasher.update(bytes);
            let zero = bytes.iter().all(|byte| *byte == 0);
            // An image stays sparse.
            if !(zero && disk.read_at(to, there).is_ok() && bytes == there) {
                let fail = |source| CopyError::Write { offset: to, source };
                disk.write_at(to, bytes).map_err(fail)?;
            }
            at = self.step(at, len);
        }
        Ok(hasher.finalize())
    }

    fn read_back(
        &mut self,
        disk: &dyn Disk,
        partition: &PlannedPartition,
        part: &Part,
    ) -> Result<blake3::Hash, CopyError> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BLOCK];
        let mut at = 0;
        while at < part.size {
            let len = usize::try_from(part.size - at).map_or(BLOCK, |left| left.min(BLOCK));
            let offset = partition.offset + at;
            disk.read_at(offset, &mut buffer[..len])
                .map_err(|source| CopyError::Read {
                    what: format!("back partition {}", partition.number),
                    offset,
                    source,
                })?;
            hasher.update(&buffer[..len]);
            at = self.step(at, len);
        }
        Ok(hasher.finalize())
    }

    fn step(&mut self, at: u64, len: usize) -> u64 {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.progress.add(len);
        at.saturating_add(len)
    }
}

fn part_of<'a>(source: &'a Source, partition: &PlannedPartition) -> Option<&'a Part> {
    let content = &partition.definition()?.content;
    let copies = content.copy_blocks == Some(CopyBlocks::Auto);
    source.part(&partition.partition_type).filter(|_| copies)
}

impl Contents for Installer<'_> {
    fn prepare(&mut self, partition: &PlannedPartition) -> Result<(), ContentsError> {
        match part_of(self.source, partition) {
            Some(part) if part.size > partition.size => Err(CopyError::Short {
                there: partition.size,
                need: part.size,
            }
            .into()),
            _ => Ok(()),
        }
    }

    fn make(
        &mut self,
        disk: &mut dyn Disk,
        partition: &PlannedPartition,
    ) -> Result<(), ContentsError> {
        if let Some(part) = part_of(self.source, partition).cloned() {
            return Ok(self.copy(disk, partition, &part)?);
        }
        let placement = self.placement;
        let volume = placement
            .volumes
            .iter()
            .find(|volume| volume.number == partition.number);
        let format = partition
            .definition()
            .and_then(|it| it.content.format.as_ref());
        if let (Some(volume), Some(Format::Vfat)) = (volume, format) {
            let bytes = partition.fs_uuid.bytes();
            let id = u32::from_be_bytes(std::array::from_fn(|at| bytes[at]));
            format::format(disk, partition.offset, partition.size, &partition.label, id)?;
            self.fill(disk, volume)?;
        }
        Ok(())
    }

    fn published(&mut self, plan: &Plan) -> Result<(), ContentsError> {
        for it in plan.created() {
            let number = it.number;
            self.target
                .announce(number, it.offset, it.size)
                .map_err(|source| CopyError::Announce { number, source })?;
        }
        Ok(())
    }
}
