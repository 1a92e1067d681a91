//! The GUID partition table: reading either copy, entries as raw bytes, slot numbers kept (spec 2.1, 2.9).
//!
//! Invariant: the array is kept as the bytes that were read. Only slots that a plan sets are ever re-encoded,
//! so entries of others stay byte-identical, vendor bytes beyond the standard fields included.

mod read;
mod write;

use crate::guid::Guid;
use crate::types::PartitionType;

pub use read::{ObserveError, observe};
pub(crate) use write::MbrWrite;
pub use write::WriteError;

/// Size of the standard part of an entry.
pub(crate) const ENTRY_SIZE: usize = 128;
/// Bytes of the standard header.
pub(crate) const HEADER_SIZE: usize = 92;
/// UTF-16 units of a label.
const NAME_UNITS: usize = 36;

/// What is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Bytes.
    pub len: u64,
    /// Logical block size in bytes.
    pub sector_size: u32,
    /// The partition table.
    pub table: TableState,
}

/// Which partition table there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableState {
    /// None that we know.
    None,
    /// A usable GPT.
    Gpt(Box<Gpt>),
    /// Something else, or a GPT with no usable copy; the text says what.
    Other(String),
}

/// A usable GPT and the state of its copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpt {
    /// The content of the good copy.
    pub table: Table,
    /// Which copy that is.
    pub source: Copy,
    /// The other copy is where it belongs, valid, and says the same.
    pub copies_agree: bool,
    /// What is in sector 0.
    pub mbr: Mbr,
}

/// One of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// At LBA 1.
    Primary,
    /// At the end.
    Backup,
}

/// Sector 0 of a disk with a GPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mbr {
    /// One 0xEE entry that covers the disk.
    Protective,
    /// One 0xEE entry of another size, e.g. of the smaller disk the image was made for.
    ProtectiveOtherSize,
    /// 0xEE beside real entries. Never touched.
    Hybrid,
    /// No MBR at all.
    Missing,
}

/// The content of a GPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// GUID of the disk.
    pub disk_guid: Guid,
    /// First sector for partitions.
    pub first_usable: u64,
    /// Last sector for partitions.
    pub last_usable: u64,
    /// Where the header says the other copy is.
    pub alternate_lba: u64,
    /// First sector of the primary array.
    pub primary_entries_lba: u64,
    pub(crate) entry_size: usize,
    pub(crate) entries: Vec<u8>,
}

/// One used slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the partition, from 1.
    pub number: u32,
    /// Type.
    pub partition_type: PartitionType,
    /// UUID.
    pub guid: Guid,
    /// First sector.
    pub first_lba: u64,
    /// Last sector.
    pub last_lba: u64,
    /// Attribute bits.
    pub attributes: u64,
    /// Label.
    pub label: String,
}

impl Table {
    /// An empty table of 128 slots for a disk of `len` bytes; `None` if it does not fit.
    #[must_use]
    pub fn new(disk_guid: Guid, len: u64, sector_size: u32) -> Option<Self> {
        let sector = u64::from(sector_size);
        let total = len / sector;
        let array = 128 * 128 / sector;
        let first_usable = if len <= 4 << 20 {
            2 + array
        } else {
            (1 << 20) / sector
        };
        let last_usable = total.checked_sub(2 + array)?;
        (last_usable >= first_usable).then(|| Self {
            disk_guid,
            first_usable,
            last_usable,
            alternate_lba: total - 1,
            primary_entries_lba: 2,
            entry_size: ENTRY_SIZE,
            entries: vec![0; 128 * ENTRY_SIZE],
        })
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.entries.len() / self.entry_size.max(1)).unwrap_or(u32::MAX)
    }

    /// Sectors the array takes.
    #[must_use]
    pub fn array_sectors(&self, sector_size: u32) -> u64 {
        u64::try_from(self.entries.len())
            .unwrap_or(u64::MAX)
            .div_ceil(u64::from(sector_size))
    }

    /// The last sector partitions may use on a disk of `total` sectors, if the copy at the end is where it belongs.
    #[must_use]
    pub fn last_usable_for(&self, total: u64, sector_size: u32) -> u64 {
        total.saturating_sub(2 + self.array_sectors(sector_size))
    }

    /// The raw bytes of a slot (number from 1).
    #[must_use]
    pub fn raw(&self, number: u32) -> Option<&[u8]> {
        let at = usize::try_from(number)
            .ok()?
            .checked_sub(1)?
            .checked_mul(self.entry_size)?;
        self.entries.get(at..at.checked_add(self.entry_size)?)
    }

    fn raw_mut(&mut self, number: u32) -> Option<&mut [u8]> {
        let at = usize::try_from(number)
            .ok()?
            .checked_sub(1)?
            .checked_mul(self.entry_size)?;
        self.entries.get_mut(at..at.checked_add(self.entry_size)?)
    }

    /// The entry in a slot, `None` if it is unused or out of range.
    #[must_use]
    pub fn entry(&self, number: u32) -> Option<Entry> {
        let raw = self.raw(number)?;
        let kind = Guid::from_disk(array(raw, 0)?);
        if kind.is_null() {
            return None;
        }
        Some(Entry {
            number,
            partition_type: PartitionType::from_uuid(kind),
            guid: Guid::from_disk(array(raw, 16)?),
            first_lba: u64::from_le_bytes(array(raw, 32)?),
            last_lba: u64::from_le_bytes(array(raw, 40)?),
            attributes: u64::from_le_bytes(array(raw, 48)?),
            label: decode_name(raw.get(56..ENTRY_SIZE)?),
        })
    }

    /// All used slots, by number.
    pub fn used(&self) -> impl Iterator<Item = Entry> + '_ {
        (1..=self.slots()).filter_map(|number| self.entry(number))
    }

    /// Writes an entry into its slot; bytes beyond the standard fields are kept. False if there is no such slot.
    pub fn set(&mut self, entry: &Entry) -> bool {
        let name = encode_name(&entry.label);
        let Some(raw) = self.raw_mut(entry.number) else {
            return false;
        };
        raw[0..16].copy_from_slice(&entry.partition_type.uuid().to_disk());
        raw[16..32].copy_from_slice(&entry.guid.to_disk());
        raw[32..40].copy_from_slice(&entry.first_lba.to_le_bytes());
        raw[40..48].copy_from_slice(&entry.last_lba.to_le_bytes());
        raw[48..56].copy_from_slice(&entry.attributes.to_le_bytes());
        raw[56..ENTRY_SIZE].copy_from_slice(&name);
        true
    }

    /// Changes only the last sector of a used slot, for an entry whose other bytes must stay as they are.
    pub fn set_last_lba(&mut self, number: u32, last_lba: u64) -> bool {
        self.raw_mut(number).is_some_and(|raw| {
            raw[40..48].copy_from_slice(&last_lba.to_le_bytes());
            true
        })
    }

    /// Frees a slot.
    pub fn clear(&mut self, number: u32) {
        if let Some(raw) = self.raw_mut(number) {
            raw.fill(0);
        }
    }
}

pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn decode_name(raw: &[u8]) -> String {
    let units = raw
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0);
    char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// Cut at a character boundary to the units there are.
fn encode_name(label: &str) -> [u8; NAME_UNITS * 2] {
    let mut raw = [0; NAME_UNITS * 2];
    let mut at = 0;
    let mut units = [0; 2];
    for c in label.chars() {
        let encoded = c.encode_utf16(&mut units);
        if at + encoded.len() * 2 > raw.len() {
            break;
        }
        for unit in encoded {
            raw[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            at += 2;
        }
    }
    raw
}
