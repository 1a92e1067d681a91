//! A sparse disk in memory that records every write, so that a test can rebuild what a power cut would leave.

use std::collections::BTreeMap;
use std::io;

use repart::Disk;

const BLOCK: u64 = 4096;

/// One thing that happened to the disk.
#[derive(Clone, Debug)]
pub enum Event {
    Write { offset: u64, data: Vec<u8> },
    Discard { offset: u64, len: u64 },
    Flush,
}

/// The disk. `events` is everything since it was made or [`MemoryDisk::forget`].
#[derive(Clone)]
pub struct MemoryDisk {
    len: u64,
    sector_size: u32,
    blocks: BTreeMap<u64, Vec<u8>>,
    pub events: Vec<Event>,
}

impl std::fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let table =
            super::image::Table::read(self, self.sector_size.into()).map(|table| table.dump());
        write!(f, "{} bytes\n{}", self.len, table.unwrap_or_default())
    }
}

impl MemoryDisk {
    pub fn new(len: u64, sector_size: u32) -> Self {
        Self {
            len,
            sector_size,
            blocks: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    pub fn forget(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub fn resize(&mut self, len: u64) {
        self.len = len;
    }

    /// Applies an event without recording it.
    pub fn replay(&mut self, event: &Event) {
        match event {
            Event::Write { offset, data } => self.store(*offset, data),
            // The worst a discard may do: what was there reads as garbage.
            Event::Discard { offset, len } => self.scramble(*offset, *len),
            Event::Flush => {}
        }
    }

    pub fn store(&mut self, offset: u64, data: &[u8]) {
        let mut at = 0;
        while at < data.len() {
            let position = offset + at as u64;
            let (block, inside) = (position / BLOCK, (position % BLOCK) as usize);
            let step = (BLOCK as usize - inside).min(data.len() - at);
            let target = self
                .blocks
                .entry(block)
                .or_insert_with(|| vec![0; BLOCK as usize]);
            target[inside..inside + step].copy_from_slice(&data[at..at + step]);
            at += step;
        }
    }

    fn scramble(&mut self, offset: u64, len: u64) {
        let range = offset / BLOCK..(offset + len).div_ceil(BLOCK);
        let known: Vec<u64> = self.blocks.range(range).map(|(block, _)| *block).collect();
        for block in known {
            let start = (block * BLOCK).max(offset);
            let end = ((block + 1) * BLOCK).min(offset + len);
            self.store(start, &vec![0xd5; (end - start) as usize]);
        }
    }

    pub fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut buffer = vec![0; len];
        self.read_at(offset, &mut buffer)
            .expect("a range inside the disk");
        buffer
    }
}

impl Disk for MemoryDisk {
    fn len(&self) -> u64 {
        self.len
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = 0;
        while at < buffer.len() {
            let position = offset + at as u64;
            let inside = (position % BLOCK) as usize;
            let step = (BLOCK as usize - inside).min(buffer.len() - at);
            match self.blocks.get(&(position / BLOCK)) {
                Some(block) => buffer[at..at + step].copy_from_slice(&block[inside..inside + step]),
                None => buffer[at..at + step].fill(0),
            }
            at += step;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset + data.len() as u64 > self.len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.store(offset, data);
        self.events.push(Event::Write {
            offset,
            data: data.to_vec(),
        });
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.events.push(Event::Flush);
        Ok(())
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.scramble(offset, len);
        self.events.push(Event::Discard { offset, len });
        Ok(())
    }
}
