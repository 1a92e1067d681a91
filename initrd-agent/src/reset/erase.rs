//! Makes a marked partition unreadable for good: headers, keys and signatures overwritten, seen to be overwritten,
//! then discarded.
//!
//! Invariant: what tells where the keys are (the LUKS headers) is overwritten only after the keys are, and that is
//! durable. So the erasure can be cut anywhere and begun again, and each step says whether it had anything to do.

use super::Change;
use super::luks::{self, Extent, Kind};
use repart::{BlockDevice, Disk};
use std::io;
use std::os::fd::AsFd;

/// cryptsetup's default: headers and keys end here.
const HEAD: u64 = 16 << 20;
/// RAID, ZFS and others sign at the end too.
const TAIL: u64 = 1 << 20;
/// dm-integrity's superblock and the sealed keys some keep behind it, at the start of a data segment.
const SUPERBLOCK: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;

/// A disk whose cache can be got out of the way, so that reading means the device.
pub trait Uncached: Disk {
    /// Drops what the kernel remembers of the disk.
    ///
    /// # Errors
    /// The device's.
    fn drop_cache(&mut self) -> io::Result<()>;
}

impl Uncached for BlockDevice {
    fn drop_cache(&mut self) -> io::Result<()> {
        if self.is_block() {
            return sys::block::flush_buffers(self.file().as_fd());
        }
        rustix::fs::fadvise(self.file(), 0, None, rustix::fs::Advice::DontNeed)
            .map_err(io::Error::from)
    }
}

/// A partition to be erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its number.
    pub number: u32,
    /// Bytes from the start of the disk.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Everything that a key or a file system could be found by.
    Keys,
    /// Every byte.
    Whole,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erased {
    /// What the partition was.
    pub kind: Kind,
    /// Bytes that read as zero now, before the discard.
    pub bytes: u64,
    /// Whether they were not zero before.
    pub change: Change,
    /// The device took the discard of the whole range.
    pub discarded: bool,
}

/// Why a partition was not erased.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum EraseError {
    #[error("partition {number} ends at {end}, the disk at {len}")]
    Range { number: u32, end: u64, len: u64 },
    #[error("partition {number} cannot be read")]
    Read { number: u32, source: io::Error },
    #[error("partition {number} cannot be overwritten")]
    Write { number: u32, source: io::Error },
    #[error("the erasure of partition {number} cannot be made durable")]
    Flush { number: u32, source: io::Error },
    #[error(
        "partition {number} still holds old data at offset {offset} of the disk after it was overwritten"
    )]
    Survived { number: u32, offset: u64 },
}

/// Erases one partition. Can be repeated; a cut before the end leaves what a repetition needs.
///
/// # Errors
/// The step that failed. Old data at a place that was overwritten is [`EraseError::Survived`].
pub fn erase(
    disk: &mut impl Uncached,
    target: &Target,
    depth: Depth,
) -> Result<Erased, EraseError> {
    let Target {
        number,
        offset,
        size,
    } = *target;
    let end = offset.saturating_add(size);
    if end > disk.len() {
        let len = disk.len();
        return Err(EraseError::Range { number, end, len });
    }
    disk.drop_cache()
        .map_err(|source| EraseError::Flush { number, source })?;
    let extent =
        luks::survey(disk, offset, size).map_err(|source| EraseError::Read { number, source })?;
    let [keys, headers] = ranges(&extent, size, depth);
    let mut change = Change::Unchanged;
    let mut bytes = 0;
    for phase in [keys, headers] {
        change = change.or(overwrite(disk, target, &phase)?);
        verify(disk, target, &phase)?;
        bytes += phase.iter().map(|range| range.1 - range.0).sum::<u64>();
    }
    // Advice, and last: what a discarded range reads as is undefined, so nothing may depend on it.
    let discarded = disk.discard(offset, size).is_ok();
    Ok(Erased {
        kind: extent.kind,
        bytes,
        change,
        discarded,
    })
}

/// Half-open, in bytes from the start of the partition.
type Range = (u64, u64);

/// What is overwritten first (keys and all else), and what after that is durable (what tells of keys).
fn ranges(extent: &Extent, size: u64, depth: Depth) -> [Vec<Range>; 2] {
    let split = extent.headers.min(size);
    let head = HEAD.max(extent.keys).min(size);
    let mut first = vec![(split, head), (size.saturating_sub(TAIL).max(split), size)];
    for start in &extent.segments {
        let start = (*start).max(split).min(size);
        first.push((start, start.saturating_add(SUPERBLOCK).min(size)));
    }
    if depth == Depth::Whole {
        first.push((split, size));
    }
    [union(first), union(vec![(0, split)])]
}

/// Sorted and merged, without empty ones.
fn union(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.retain(|range| range.0 < range.1);
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.0 <= last.1 => last.1 = last.1.max(range.1),
            _ => merged.push(range),
        }
    }
    merged
}

/// Zeroes what is not zero, then flushes.
fn overwrite(
    disk: &mut impl Uncached,
    target: &Target,
    phase: &[Range],
) -> Result<Change, EraseError> {
    let number = target.number;
    let mut change = Change::Unchanged;
    let mut buffer = vec![0; usize::try_from(BLOCK).unwrap_or(1 << 16)];
    let zeroes = buffer.clone();
    for (at, len) in blocks(target, phase) {
        let part = &mut buffer[..len];
        disk.read_at(at, part)
            .map_err(|source| EraseError::Read { number, source })?;
        if *part != zeroes[..len] {
            disk.write_at(at, &zeroes[..len])
                .map_err(|source| EraseError::Write { number, source })?;
            change = Change::Changed;
        }
    }
    disk.flush()
        .map_err(|source| EraseError::Flush { number, source })?;
    Ok(change)
}

/// Reads everything again, from the device.
fn verify(disk: &mut impl Uncached, target: &Target, phase: &[Range]) -> Result<(), EraseError> {
    let number = target.number;
    disk.drop_cache()
        .map_err(|source| EraseError::Flush { number, source })?;
    let mut buffer = vec![0; usize::try_from(BLOCK).unwrap_or(1 << 16)];
    let zeroes = buffer.clone();
    for (at, len) in blocks(target, phase) {
        let part = &mut buffer[..len];
        disk.read_at(at, part)
            .map_err(|source| EraseError::Read { number, source })?;
        if *part != zeroes[..len] {
            return Err(EraseError::Survived { number, offset: at });
        }
    }
    Ok(())
}

/// Places on the disk, at most [`BLOCK`] each.
fn blocks(target: &Target, phase: &[Range]) -> impl Iterator<Item = (u64, usize)> {
    let offset = target.offset;
    phase.iter().copied().flat_map(move |(start, end)| {
        let count = (end - start).div_ceil(BLOCK);
        (0..count).map(move |index| {
            let at = start + index * BLOCK;
            let len = usize::try_from((end - at).min(BLOCK)).unwrap_or(0);
            (offset + at, len)
        })
    })
}
