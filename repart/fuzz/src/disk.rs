//! A disk of any length whose first and last bytes are in memory; what lies between reads as zero and forgets.

use std::io;

use repart::Disk;

/// The disk.
#[derive(Clone)]
pub struct Ends {
    /// Bytes.
    pub len: u64,
    /// Logical block size.
    pub sector: u32,
    /// From offset 0.
    pub head: Vec<u8>,
    /// Up to the end.
    pub tail: Vec<u8>,
}

impl Ends {
    fn tail_start(&self) -> u64 {
        self.len - self.tail.len() as u64
    }

    fn get(&self, at: u64) -> u8 {
        if let Some(byte) = self.head.get(at as usize) {
            *byte
        } else if at >= self.tail_start() {
            self.tail[(at - self.tail_start()) as usize]
        } else {
            0
        }
    }

    fn whole(&self, offset: u64, len: usize) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Disk for Ends {
    fn len(&self) -> u64 {
        self.len
    }

    fn sector_size(&self) -> u32 {
        self.sector
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.whole(offset, buffer.len())?;
        let at = offset as usize;
        match self.head.get(at..at + buffer.len()) {
            Some(bytes) => buffer.copy_from_slice(bytes),
            None => {
                for (at, byte) in (offset..).zip(buffer.iter_mut()) {
                    *byte = self.get(at);
                }
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.whole(offset, data.len())?;
        let start = self.tail_start();
        for (at, byte) in (offset..).zip(data) {
            if let Some(there) = self.head.get_mut(at as usize) {
                *there = *byte;
            } else if at >= start {
                self.tail[(at - start) as usize] = *byte;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}
