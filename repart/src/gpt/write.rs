//! Writing: one copy is good at every moment.
//!
//! Order: array, flush, header, flush, for the copy we did *not* read from first; then the same for the other;
//! the protective MBR last. A cut anywhere leaves either the old copy or the new one with matching checksums,
//! and a reader that finds the first copy torn takes the second.

use std::io;

use super::{Copy, HEADER_SIZE, Mbr, Table};
use crate::disk::Disk;

/// A write of the table failed. The copy that was not being written is still good.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the {what} of the partition table at offset {offset}")]
pub struct WriteError {
    /// Which part.
    pub what: &'static str,
    /// Where, in bytes.
    pub offset: u64,
    /// Why.
    pub source: io::Error,
}

impl Table {
    /// Writes both copies, the one other than `good` first, and the MBR where it is wrong.
    pub(crate) fn write(
        &self,
        disk: &mut (impl Disk + ?Sized),
        good: Copy,
        mbr: MbrWrite,
    ) -> Result<(), WriteError> {
        let sector = disk.sector_size();
        let last = (disk.len() / u64::from(sector)).saturating_sub(1);
        let backup_array = last.saturating_sub(self.array_sectors(sector));
        let primary = Place {
            header: 1,
            other: last,
            array: self.primary_entries_lba,
            names: ["primary entries", "primary header"],
        };
        let backup = Place {
            header: last,
            other: 1,
            array: backup_array,
            names: ["backup entries", "backup header"],
        };
        let order = match good {
            Copy::Primary => [backup, primary],
            Copy::Backup => [primary, backup],
        };
        for place in order {
            put(
                disk,
                place.names[0],
                place.array * u64::from(sector),
                &self.entries,
            )?;
            put(
                disk,
                place.names[1],
                place.header * u64::from(sector),
                &self.header(&place, sector),
            )?;
        }
        match mbr {
            MbrWrite::Keep => Ok(()),
            MbrWrite::Size => {
                let mut first = vec![0; 512];
                disk.read_at(0, &mut first).map_err(|source| WriteError {
                    what: "protective MBR",
                    offset: 0,
                    source,
                })?;
                first[446..512].copy_from_slice(&protective_mbr(last)[446..512]);
                put(disk, "protective MBR", 0, &first)
            }
            MbrWrite::New => put(disk, "protective MBR", 0, &protective_mbr(last)),
        }
    }

    /// One sector.
    fn header(&self, place: &Place, sector: u32) -> Vec<u8> {
        let mut raw = vec![0; usize::try_from(sector).unwrap_or(512)];
        let count = self.slots();
        let entry_size = u32::try_from(self.entry_size).unwrap_or(128);
        raw[0..8].copy_from_slice(b"EFI PART");
        raw[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        raw[12..16].copy_from_slice(&92u32.to_le_bytes());
        raw[24..32].copy_from_slice(&place.header.to_le_bytes());
        raw[32..40].copy_from_slice(&place.other.to_le_bytes());
        raw[40..48].copy_from_slice(&self.first_usable.to_le_bytes());
        raw[48..56].copy_from_slice(&self.last_usable.to_le_bytes());
        raw[56..72].copy_from_slice(&self.disk_guid.to_disk());
        raw[72..80].copy_from_slice(&place.array.to_le_bytes());
        raw[80..84].copy_from_slice(&count.to_le_bytes());
        raw[84..88].copy_from_slice(&entry_size.to_le_bytes());
        raw[88..92].copy_from_slice(&crc32fast::hash(&self.entries).to_le_bytes());
        let sum = crc32fast::hash(&raw[..HEADER_SIZE]);
        raw[16..20].copy_from_slice(&sum.to_le_bytes());
        raw
    }
}

/// What to do with sector 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MbrWrite {
    /// Right, or a hybrid one that is somebody's choice.
    Keep,
    /// Boot code stays, the protective entry is renewed.
    Size,
    /// Boot code of an earlier life goes too.
    New,
}

impl Mbr {
    /// What an additive write does with this one.
    pub(crate) fn repair(self) -> MbrWrite {
        match self {
            Self::Protective | Self::Hybrid => MbrWrite::Keep,
            Self::ProtectiveOtherSize | Self::Missing => MbrWrite::Size,
        }
    }
}

struct Place {
    header: u64,
    other: u64,
    array: u64,
    names: [&'static str; 2],
}

fn put(
    disk: &mut (impl Disk + ?Sized),
    what: &'static str,
    offset: u64,
    data: &[u8],
) -> Result<(), WriteError> {
    let fail = |source| WriteError {
        what,
        offset,
        source,
    };
    disk.write_at(offset, data).map_err(fail)?;
    disk.flush().map_err(fail)
}

fn protective_mbr(last_lba: u64) -> [u8; 512] {
    let mut raw = [0; 512];
    let sectors = u32::try_from(last_lba).unwrap_or(u32::MAX);
    raw[447..450].copy_from_slice(&[0, 2, 0]);
    raw[450] = 0xee;
    raw[451..454].fill(0xff);
    raw[454..458].copy_from_slice(&1u32.to_le_bytes());
    raw[458..462].copy_from_slice(&sectors.to_le_bytes());
    raw[510..512].copy_from_slice(&[0x55, 0xaa]);
    raw
}
