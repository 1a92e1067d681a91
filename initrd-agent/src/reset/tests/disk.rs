//! A sparse disk in memory that records what happens to it, and a GPT writer that shares nothing with the library's.

use super::super::erase::Uncached;
use repart::{Copy, Disk, Entry, Gpt, Guid, PartitionType, Table};
use std::collections::BTreeMap;
use std::io;

const BLOCK: u64 = 4096;
pub const SECTOR: u64 = 512;

/// One thing that happened to the machine.
#[derive(Clone, Debug)]
pub enum Event {
    Write(u64, Vec<u8>),
    Discard(u64, u64),
    Flush,
    /// An EFI variable was deleted.
    Deleted(&'static str),
}

#[derive(Clone, Default)]
pub struct MemoryDisk {
    pub size: u64,
    /// It refuses discards: nothing may depend on them.
    pub no_discard: bool,
    blocks: BTreeMap<u64, Vec<u8>>,
    pub events: Vec<Event>,
}

impl MemoryDisk {
    pub fn new(size: u64) -> Self {
        Self {
            size,
            ..Self::default()
        }
    }

    pub fn store(&mut self, offset: u64, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            let position = offset + at as u64;
            let inside = usize::try_from(position % BLOCK).unwrap();
            let step = (4096 - inside).min(data.len() - at);
            let block = self
                .blocks
                .entry(position / BLOCK)
                .or_insert_with(|| vec![0; 4096]);
            block[inside..inside + step].copy_from_slice(&data[at..at + step]);
            at += step;
        }
    }

    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut buffer = vec![0; len];
        self.read_at(offset, &mut buffer).unwrap();
        buffer
    }

    /// Applies an event without recording it. A discard does the worst: what was there reads as garbage.
    pub fn replay(&mut self, event: &Event) {
        match event {
            Event::Write(offset, data) => self.store(*offset, data),
            Event::Discard(offset, len) => self.scramble(*offset, *len),
            Event::Flush | Event::Deleted(_) => {}
        }
    }

    fn scramble(&mut self, offset: u64, len: u64) {
        let known: Vec<u64> = self
            .blocks
            .range(offset / BLOCK..(offset + len) / BLOCK)
            .map(|(block, _)| *block)
            .collect();
        for block in known {
            self.blocks.insert(block, vec![0xd5; 4096]);
        }
    }

    /// Somewhere on the disk are these bytes.
    pub fn holds(&self, needle: &[u8]) -> bool {
        let mut previous: Option<(u64, Vec<u8>)> = None;
        self.blocks.iter().any(|(number, block)| {
            let mut joined = match previous.take() {
                Some((before, tail)) if before + 1 == *number => tail,
                _ => Vec::new(),
            };
            joined.extend_from_slice(block);
            let uniform = joined.iter().all(|byte| *byte == joined[0]);
            let found = !uniform && joined.windows(needle.len()).any(|window| window == needle);
            previous = Some((*number, joined[joined.len() - needle.len()..].to_vec()));
            found
        })
    }
}

impl Disk for MemoryDisk {
    fn len(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = 0;
        while at < buffer.len() {
            let position = offset + at as u64;
            let inside = usize::try_from(position % BLOCK).unwrap();
            let step = (4096 - inside).min(buffer.len() - at);
            match self.blocks.get(&(position / BLOCK)) {
                Some(block) => buffer[at..at + step].copy_from_slice(&block[inside..inside + step]),
                None => buffer[at..at + step].fill(0),
            }
            at += step;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset + data.len() as u64 > self.size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.store(offset, data);
        self.events.push(Event::Write(offset, data.to_vec()));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.events.push(Event::Flush);
        Ok(())
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        if self.no_discard {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.scramble(offset, len);
        self.events.push(Event::Discard(offset, len));
        Ok(())
    }
}

impl Uncached for MemoryDisk {
    fn drop_cache(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `(type, uuid, first byte, bytes, label)`, into slots 1, 2, …
pub fn table(size: u64, partitions: &[(&str, u128, u64, u64, &str)]) -> Table {
    let mut table = Table::new(Guid::from_u128(7), size, 512).unwrap();
    for (at, (kind, uuid, offset, len, label)) in partitions.iter().enumerate() {
        assert!(table.set(&Entry {
            number: u32::try_from(at).unwrap() + 1,
            partition_type: PartitionType::from_uuid(Guid::parse(kind).unwrap()),
            guid: Guid::from_u128(*uuid),
            first_lba: offset / SECTOR,
            last_lba: (offset + len) / SECTOR - 1,
            attributes: 0,
            label: (*label).to_owned(),
        }));
    }
    table
}

/// Both copies, the one that is not good first, a flush after each array and each header.
pub fn write_table(disk: &mut impl Disk, good: Copy, table: &Table) -> io::Result<()> {
    let last = disk.len() / SECTOR - 1;
    let primary = (1, last, table.primary_entries_lba);
    let backup = (last, 1, last - 32);
    let order = match good {
        Copy::Primary => [backup, primary],
        Copy::Backup => [primary, backup],
    };
    let array: Vec<u8> = (1..=table.slots())
        .flat_map(|number| table.raw(number).unwrap().to_vec())
        .collect();
    for (here, other, entries) in order {
        disk.write_at(entries * SECTOR, &array)?;
        disk.flush()?;
        let mut header = vec![0; 512];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x1_0000u32.to_le_bytes());
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        for (at, value) in [
            (24, here),
            (32, other),
            (40, table.first_usable),
            (48, table.last_usable),
            (72, entries),
        ] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[56..72].copy_from_slice(&table.disk_guid.to_disk());
        header[80..84].copy_from_slice(&table.slots().to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&array).to_le_bytes());
        let sum = crc32(&header[..92]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        disk.write_at(here * SECTOR, &header)?;
        disk.flush()?;
    }
    Ok(())
}

pub fn commit(disk: &mut impl Disk, there: &Gpt, table: &Table) -> io::Result<()> {
    write_table(disk, there.source, table)
}

/// Sector 0 of a disk with a GPT.
pub fn protective_mbr(size: u64) -> Vec<u8> {
    let mut mbr = vec![0; 512];
    mbr[447..450].copy_from_slice(&[0, 2, 0]);
    mbr[450] = 0xee;
    mbr[451..454].fill(0xff);
    mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
    let last = u32::try_from(size / SECTOR - 1).unwrap();
    mbr[458..462].copy_from_slice(&last.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 {
                sum >> 1 ^ 0xedb8_8320
            } else {
                sum >> 1
            };
        }
    }
    !sum
}
