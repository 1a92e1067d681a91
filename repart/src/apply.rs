//! Carrying out a plan. Makes no choices.
//!
//! Order: what is new is wiped and filled first, then one flush, then the table (one copy good at every moment),
//! then the kernel is told. A cut before the table write leaves the old table; the next run starts again, since
//! only space that no entry covers, or that a factory reset gives up, was written to.

use std::error::Error;
use std::io;

use crate::check::{CheckError, check};
use crate::disk::Disk;
use crate::gpt::{ObserveError, WriteError, observe};
use crate::plan::{Plan, PlannedPartition};

/// Signatures are looked for in this much of either end of a partition.
const SIGNATURE_AREA: u64 = 1 << 20;
const BLOCK: usize = 64 << 10;

/// What the caller's [`Contents`] answers.
pub type ContentsError = Box<dyn Error + Send + Sync>;

/// Makes what goes into new partitions, and tells the kernel.
pub trait Contents {
    /// Called for every new partition before anything is written: is all there that [`Contents::make`] needs?
    ///
    /// # Errors
    /// What is missing. Nothing was written then.
    fn prepare(&mut self, partition: &PlannedPartition) -> Result<(), ContentsError>;

    /// Makes the contents of one new partition and makes them durable. The table does not name it yet.
    /// `disk` is the whole disk; the partition is at `partition.offset`, its range is wiped.
    ///
    /// # Errors
    /// Why the contents could not be made. The table is not written then.
    fn make(
        &mut self,
        disk: &mut dyn Disk,
        partition: &PlannedPartition,
    ) -> Result<(), ContentsError>;

    /// The table is durable: tell the kernel about new, grown and deleted partitions.
    ///
    /// # Errors
    /// Why the kernel does not know. The disk is right all the same.
    fn published(&mut self, plan: &Plan) -> Result<(), ContentsError>;
}

/// Leaves new partitions empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoContents;

impl Contents for NoContents {
    fn prepare(&mut self, _: &PlannedPartition) -> Result<(), ContentsError> {
        Ok(())
    }

    fn make(&mut self, _: &mut dyn Disk, _: &PlannedPartition) -> Result<(), ContentsError> {
        Ok(())
    }

    fn published(&mut self, _: &Plan) -> Result<(), ContentsError> {
        Ok(())
    }
}

/// What [`apply`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was to be done; nothing was written.
    Unchanged,
    /// The table was written.
    Changed,
}

/// Why a plan was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The disk cannot be read.
    #[error("cannot look at the disk before writing")]
    Observe(#[source] ObserveError),
    /// The disk is not the one the plan was made for, or changed since.
    #[error("the plan does not match the disk; nothing was written")]
    Check(#[source] CheckError),
    /// Something the contents need is missing.
    #[error("partition {number} ({label}) cannot be made; nothing was written")]
    Prepare {
        /// Its number.
        number: u32,
        /// Its label.
        label: String,
        /// Why.
        source: ContentsError,
    },
    /// Old signatures could not be removed.
    #[error(
        "cannot wipe the range of partition {number} at offset {offset}; the table is as it was"
    )]
    Wipe {
        /// Its number.
        number: u32,
        /// Bytes from the start of the disk.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The contents could not be made.
    #[error("cannot make the contents of partition {number} ({label}); the table is as it was")]
    Make {
        /// Its number.
        number: u32,
        /// Its label.
        label: String,
        /// Why.
        source: ContentsError,
    },
    /// The contents could not be made durable.
    #[error("cannot flush the contents of new partitions; the table is as it was")]
    Flush(#[source] io::Error),
    /// The table could not be written.
    #[error("cannot write the partition table; one copy of it is good")]
    Table(#[source] WriteError),
    /// The table is written, the kernel does not know.
    #[error("the partition table is written, but the kernel could not be told")]
    Publish(#[source] ContentsError),
}

/// Carries out `plan`.
///
/// # Errors
/// The step that failed. Until the table write has begun the old table is in force.
pub fn apply(
    plan: &Plan,
    disk: &mut impl Disk,
    contents: &mut impl Contents,
) -> Result<Outcome, ApplyError> {
    if !plan.changes_disk() {
        return Ok(Outcome::Unchanged);
    }
    let snapshot = observe(disk).map_err(ApplyError::Observe)?;
    check(&snapshot, plan).map_err(ApplyError::Check)?;
    for partition in plan.created() {
        let fail = |source| ApplyError::Prepare {
            number: partition.number,
            label: partition.label.clone(),
            source,
        };
        contents.prepare(partition).map_err(fail)?;
    }
    for partition in plan.created() {
        let fail = |source| ApplyError::Wipe {
            number: partition.number,
            offset: partition.offset,
            source,
        };
        wipe(disk, partition, plan.discard).map_err(fail)?;
    }
    // Contents may be made through the partition's own node, whose cache is not the disk's: zeroes still waiting there
    // would be written over them later.
    disk.flush().map_err(ApplyError::Flush)?;
    for partition in plan.created() {
        let fail = |source| ApplyError::Make {
            number: partition.number,
            label: partition.label.clone(),
            source,
        };
        contents.make(disk, partition).map_err(fail)?;
    }
    disk.flush().map_err(ApplyError::Flush)?;
    plan.table
        .write(disk, plan.good_copy, plan.mbr_write())
        .map_err(ApplyError::Table)?;
    contents.published(plan).map_err(ApplyError::Publish)?;
    Ok(Outcome::Changed)
}

/// Discards the range and zeroes its ends where file systems and volume managers keep their signatures.
fn wipe(disk: &mut impl Disk, partition: &PlannedPartition, discard: bool) -> io::Result<()> {
    if discard {
        // Advice only: many devices cannot, and what follows does not rely on it.
        drop(disk.discard(partition.offset, partition.size));
    }
    let head = partition.size.min(SIGNATURE_AREA);
    zero(disk, partition.offset, head)?;
    let tail = (partition.size - head).min(SIGNATURE_AREA);
    zero(disk, partition.end().saturating_sub(tail), tail)
}

/// Writes zeroes only where there are none, so that sparse images stay sparse.
fn zero(disk: &mut impl Disk, offset: u64, len: u64) -> io::Result<()> {
    let zeroes = vec![0; BLOCK];
    let mut buffer = vec![0; BLOCK];
    let mut at = 0;
    while at < len {
        let step = usize::try_from(len - at).map_or(BLOCK, |left| left.min(BLOCK));
        disk.read_at(offset + at, &mut buffer[..step])?;
        if buffer[..step] != zeroes[..step] {
            disk.write_at(offset + at, &zeroes[..step])?;
        }
        at += u64::try_from(step).unwrap_or(len);
    }
    Ok(())
}
