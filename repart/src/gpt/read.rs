//! Reading: both copies, checksums, every field of a header distrusted.

use std::io;

use super::{Copy, ENTRY_SIZE, Gpt, HEADER_SIZE, Mbr, Snapshot, Table, TableState, array};
use crate::disk::Disk;
use crate::guid::Guid;

/// Larger arrays are not real (the usual one has 16 KiB).
const ARRAY_MAX: u64 = 4 << 20;

/// The disk could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// A read failed.
    #[error("cannot read {len} bytes at offset {offset} of the disk")]
    Read {
        /// Where.
        offset: u64,
        /// How much.
        len: usize,
        /// Why.
        source: io::Error,
    },
    /// A sector size no disk has.
    #[error("sector size {0} is no power of two in 512…4096")]
    SectorSize(u32),
}

/// Looks at the disk; reads only.
///
/// # Errors
/// Reads that fail. A table that is damaged is no error, it is part of the answer.
pub fn observe(disk: &(impl Disk + ?Sized)) -> Result<Snapshot, ObserveError> {
    let sector_size = disk.sector_size();
    if !(512..=4096).contains(&sector_size) || !sector_size.is_power_of_two() {
        return Err(ObserveError::SectorSize(sector_size));
    }
    let snapshot = |table| Snapshot {
        len: disk.len(),
        sector_size,
        table,
    };
    let total = disk.len() / u64::from(sector_size);
    if total < 3 {
        return Ok(snapshot(TableState::None));
    }
    let first = read_sectors(disk, 0, u64::from(sector_size))?;
    let mbr = match classify_mbr(&first, total) {
        MbrKind::Gpt(mbr) => mbr,
        MbrKind::Dos => {
            return Ok(snapshot(TableState::Other(
                "an MBR partition table".to_owned(),
            )));
        }
    };
    let primary = read_copy(disk, 1, total)?;
    let end = primary
        .as_ref()
        .ok()
        .map_or(total - 1, |header| header.alternate_lba);
    let backup = if end > 1 && end < total {
        read_copy(disk, end, total)?
    } else {
        Err("beyond the disk")
    };
    let mut table = choose(primary, backup, mbr, total, disk.sector_size());
    keep_off_the_backup(&mut table, total, disk.sector_size());
    Ok(snapshot(table))
}

fn choose(
    primary: Result<Table, &'static str>,
    backup: Result<Table, &'static str>,
    mbr: Mbr,
    total: u64,
    sector_size: u32,
) -> TableState {
    match (primary, backup) {
        (Ok(table), backup) => {
            let agree = table.alternate_lba == total - 1
                && backup.is_ok_and(|backup| {
                    // The other copy names this one as its alternate and has its own array.
                    let expected = Table {
                        alternate_lba: 1,
                        primary_entries_lba: backup.primary_entries_lba,
                        ..table.clone()
                    };
                    backup == expected
                });
            TableState::Gpt(Box::new(Gpt {
                table,
                source: Copy::Primary,
                copies_agree: agree,
                mbr,
            }))
        }
        (Err(_), Ok(backup)) => {
            // The primary array's place is only known from the primary header; LBA 2 is where every tool puts it.
            let table = Table {
                alternate_lba: total - 1,
                primary_entries_lba: 2,
                ..backup
            };
            if table.first_usable < 2 + table.array_sectors(sector_size) {
                return TableState::Other(
                    "a GPT whose backup leaves no room for a primary array".to_owned(),
                );
            }
            TableState::Gpt(Box::new(Gpt {
                table,
                source: Copy::Backup,
                copies_agree: false,
                mbr,
            }))
        }
        (Err(no_signature), Err(_)) if no_signature == NO_SIGNATURE && mbr == Mbr::Missing => {
            TableState::None
        }
        (Err(first), Err(second)) => TableState::Other(format!(
            "a GPT with no usable copy (primary: {first}; backup: {second})"
        )),
    }
}

/// A header may claim sectors that the backup array needs. Believed, the next partition, or the backup itself, would end
/// up where the other lies; so the claim is cut and the table counts as one to be repaired.
fn keep_off_the_backup(state: &mut TableState, total: u64, sector_size: u32) {
    let TableState::Gpt(gpt) = state else { return };
    let last = gpt.table.last_usable_for(total, sector_size);
    if gpt.table.last_usable <= last {
        return;
    }
    if last < gpt.table.first_usable {
        let what = "a GPT that leaves no room for its backup array";
        *state = TableState::Other(what.to_owned());
        return;
    }
    gpt.table.last_usable = last;
    gpt.copies_agree = false;
}

const NO_SIGNATURE: &str = "no signature";

/// Reads one copy; the outer error is the device's, the inner one says what is wrong with the copy.
fn read_copy(
    disk: &(impl Disk + ?Sized),
    lba: u64,
    total: u64,
) -> Result<Result<Table, &'static str>, ObserveError> {
    let sector = u64::from(disk.sector_size());
    let raw = read_sectors(disk, lba * sector, sector)?;
    let header = match parse_header(&raw, lba, total, sector) {
        Ok(header) => header,
        Err(what) => return Ok(Err(what)),
    };
    let len = u64::from(header.count) * u64::from(header.entry_size);
    let entries = read_sectors(disk, header.entries_lba * sector, len)?;
    if crc32fast::hash(&entries) != header.entries_crc {
        return Ok(Err("checksum of the entries is wrong"));
    }
    Ok(Ok(Table {
        disk_guid: header.disk_guid,
        first_usable: header.first_usable,
        last_usable: header.last_usable,
        alternate_lba: header.alternate_lba,
        primary_entries_lba: header.entries_lba,
        entry_size: usize::try_from(header.entry_size).unwrap_or(ENTRY_SIZE),
        entries,
    }))
}

struct Header {
    alternate_lba: u64,
    first_usable: u64,
    last_usable: u64,
    disk_guid: Guid,
    entries_lba: u64,
    count: u32,
    entry_size: u32,
    entries_crc: u32,
}

fn parse_header(raw: &[u8], lba: u64, total: u64, sector: u64) -> Result<Header, &'static str> {
    const SHORT: &str = "short";
    let u32_at = |at| array(raw, at).map(u32::from_le_bytes).ok_or(SHORT);
    let u64_at = |at| array(raw, at).map(u64::from_le_bytes).ok_or(SHORT);
    if raw.get(..8) != Some(b"EFI PART") {
        return Err(NO_SIGNATURE);
    }
    let size = usize::try_from(u32_at(12)?).map_err(|_| SHORT)?;
    if !(HEADER_SIZE..=raw.len()).contains(&size) {
        return Err("header size out of range");
    }
    let mut summed = raw[..size].to_vec();
    summed[16..20].fill(0);
    if crc32fast::hash(&summed) != u32_at(16)? {
        return Err("checksum of the header is wrong");
    }
    let header = Header {
        alternate_lba: u64_at(32)?,
        first_usable: u64_at(40)?,
        last_usable: u64_at(48)?,
        disk_guid: Guid::from_disk(array(raw, 56).ok_or(SHORT)?),
        entries_lba: u64_at(72)?,
        count: u32_at(80)?,
        entry_size: u32_at(84)?,
        entries_crc: u32_at(88)?,
    };
    if u64_at(24)? != lba {
        return Err("header is that of another place");
    }
    if header.entry_size < 128 || header.entry_size > 4096 || !header.entry_size.is_power_of_two() {
        return Err("entry size out of range");
    }
    let array = u64::from(header.count) * u64::from(header.entry_size);
    if header.count == 0 || array > ARRAY_MAX {
        return Err("number of entries out of range");
    }
    let array_end = header
        .entries_lba
        .checked_add(array.div_ceil(sector))
        .ok_or("array beyond the disk")?;
    if header.entries_lba < 2 || array_end > total {
        return Err("array beyond the disk");
    }
    if header.first_usable > header.last_usable
        || header.first_usable < 2
        || header.last_usable >= total
    {
        return Err("usable range beyond the disk");
    }
    if header.entries_lba <= header.last_usable && array_end > header.first_usable {
        return Err("array inside the usable range");
    }
    Ok(header)
}

enum MbrKind {
    Gpt(Mbr),
    Dos,
}

fn classify_mbr(sector: &[u8], total: u64) -> MbrKind {
    let entries: Vec<&[u8]> = sector
        .get(446..510)
        .map(|area| area.chunks_exact(16).collect())
        .unwrap_or_default();
    let signed = sector.get(510..512) == Some(&[0x55, 0xaa]);
    // The boot code of a file system has the same signature, but no sane flags here.
    let sane = entries.iter().all(|entry| matches!(entry[0], 0 | 0x80));
    let used: Vec<&&[u8]> = entries.iter().filter(|entry| entry[4] != 0).collect();
    if !signed || !sane || used.is_empty() {
        return MbrKind::Gpt(Mbr::Missing);
    }
    let protective = used.iter().find(|entry| entry[4] == 0xee);
    match protective {
        None => MbrKind::Dos,
        Some(_) if used.len() > 1 => MbrKind::Gpt(Mbr::Hybrid),
        Some(entry) => {
            let covers = array(entry, 12).map(u32::from_le_bytes);
            let expected = u32::try_from(total - 1).unwrap_or(u32::MAX);
            let right = covers == Some(expected) && array(entry, 8) == Some(1u32.to_le_bytes());
            MbrKind::Gpt(if right {
                Mbr::Protective
            } else {
                Mbr::ProtectiveOtherSize
            })
        }
    }
}

fn read_sectors(
    disk: &(impl Disk + ?Sized),
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, ObserveError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let mut buffer = vec![0; len];
    disk.read_at(offset, &mut buffer)
        .map_err(|source| ObserveError::Read {
            offset,
            len,
            source,
        })?;
    Ok(buffer)
}
