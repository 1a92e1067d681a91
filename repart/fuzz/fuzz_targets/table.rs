//! Any bytes as a disk: `observe` answers, and what it answers can be walked, planned with, written and read again.
//!
//! The first byte says how the rest is meant: bits 0-1 sector size, bit 2 checksums of the primary copy made right
//! (else hardly any mutation passes them), bit 3 the same for the copy at the end, bit 4 that copy made from the
//! primary one. Two bytes more: sectors of the disk beyond the given bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use repart::{Definitions, EmptyMode, Guid, NoContents, Policy, TableState, apply, observe, plan};
use repart_fuzz::disk::Ends;
use repart_fuzz::sound::assert_sound;

const ARRAY: usize = 128 * 128;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Makes both sums of the header at `header` right, its array being in the same bytes, which start at LBA `base`.
fn repair(bytes: &mut [u8], header: usize, base: u64, sector: usize) -> Option<()> {
    bytes.get(header..header + 92)?;
    let len = word(bytes, header + 80)?.checked_mul(word(bytes, header + 84)?)? as usize;
    let start = long(bytes, header + 72)?.checked_sub(base)?;
    let start = usize::try_from(start).ok()?.checked_mul(sector)?;
    if let Some(array) = bytes.get(start..start.checked_add(len)?) {
        let sum = crc32fast::hash(array);
        bytes[header + 88..header + 92].copy_from_slice(&sum.to_le_bytes());
    }
    let size = (word(bytes, header + 12)? as usize).clamp(92, sector);
    bytes.get_mut(header + 16..header + 20)?.fill(0);
    let sum = crc32fast::hash(bytes.get(header..header + size)?);
    bytes[header + 16..header + 20].copy_from_slice(&sum.to_le_bytes());
    Some(())
}

fn disk(data: &[u8]) -> Option<Ends> {
    let (mode, more, bytes) = (*data.first()?, data.get(1..3)?, data.get(3..)?);
    let sector = 512usize << (mode & 3);
    let mut head = bytes.to_vec();
    let more = u64::from(u16::from_le_bytes([more[0], more[1]]));
    // One sector more than the copy at the end, for lengths that are no whole sectors.
    let mut tail = vec![0; ARRAY + 2 * sector];
    if more * (sector as u64) < tail.len() as u64 {
        tail.clear();
    }
    let len = head.len() as u64 + more * sector as u64;
    let total = len / sector as u64;
    let first = total.saturating_sub(1 + (ARRAY / sector) as u64);
    // Where the tail's copy begins in it, and its header.
    let array = (first * sector as u64).saturating_sub(len - tail.len() as u64) as usize;
    let own = array + ARRAY;
    if mode & 4 != 0 {
        repair(&mut head, sector, 0, sector);
    }
    if mode & 16 != 0 && !tail.is_empty() {
        let array_len = ARRAY.min(head.len().saturating_sub(2 * sector));
        tail[array..array + array_len]
            .copy_from_slice(&head[head.len().min(2 * sector)..][..array_len]);
        if let Some(header) = head.get(sector..sector + 92) {
            tail[own..own + 92].copy_from_slice(header);
            tail[own + 24..own + 32].copy_from_slice(&(total.saturating_sub(1)).to_le_bytes());
            tail[own + 32..own + 40].copy_from_slice(&1u64.to_le_bytes());
            tail[own + 72..own + 80].copy_from_slice(&first.to_le_bytes());
        }
    }
    if mode & 8 != 0 && !tail.is_empty() {
        repair(&mut tail[array..], ARRAY, first, sector);
    }
    Some(Ends {
        len,
        sector: sector as u32,
        head,
        tail,
    })
}

fuzz_target!(|data: &[u8]| {
    let Some(mut disk) = disk(data) else { return };
    let Ok(snapshot) = observe(&disk) else { return };
    assert_eq!(
        (snapshot.len, snapshot.sector_size),
        (disk.len, disk.sector)
    );
    if let TableState::Gpt(gpt) = &snapshot.table {
        for entry in gpt.table.used() {
            assert!(entry.number >= 1 && entry.number <= gpt.table.slots());
            assert!(entry.label.encode_utf16().count() <= 36);
        }
    }
    // With nothing wanted a plan at most repairs; then both copies are the same afterwards.
    let policy = Policy {
        empty: EmptyMode::Allow,
        ..Policy::new(Guid::from_bytes([1; 16]), Guid::from_bytes([2; 16]))
    };
    let Ok(made) = plan(&snapshot, &Definitions::default(), &policy) else {
        return;
    };
    assert_sound(&snapshot, &made);
    let whole = 2 * disk.sector as usize + ARRAY;
    if made.changes_disk() && disk.head.len() >= whole && disk.tail.len() > ARRAY {
        let TableState::Gpt(before) = &snapshot.table else {
            return;
        };
        // A larger array than the disk keeps in memory cannot be read again.
        if before.table.array_sectors(disk.sector) * u64::from(disk.sector) > ARRAY as u64
            || before.table.primary_entries_lba != 2
        {
            return;
        }
        if apply(&made, &mut disk, &mut NoContents).is_ok() {
            let again = observe(&disk).expect("a disk that can be read");
            let TableState::Gpt(after) = &again.table else {
                panic!("{:?}", again.table)
            };
            assert!(after.copies_agree, "{after:?}");
            assert!(before.table.used().eq(after.table.used()));
        }
    }
});
