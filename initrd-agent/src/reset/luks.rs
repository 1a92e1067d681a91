//! How far the key material of a LUKS volume reaches, told from whatever is left of its headers.
//!
//! Both header copies are asked, neither is believed beyond the caps: the largest header and keyslot area that
//! cryptsetup makes. Checksums are not looked at, for a damaged header may still say where keys lie.
//! (LUKS2 On-Disk Format Specification 1.1.3)

use repart::Disk;
use std::io;

const BINARY: usize = 4096;
/// Sizes a header copy (binary and JSON) may have; the second copy lies at one of these.
const HEADER_SIZES: [u64; 9] = [
    0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000,
];
/// Two of the largest headers.
pub const HEADERS: u64 = 8 << 20;
/// The largest keyslot area behind them.
pub const KEYS: u64 = HEADERS + (128 << 20);
/// More segments are not looked at: a volume has one, two while it is being re-encrypted.
const SEGMENTS: usize = 4;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A LUKS2 header that can be read, in either copy.
    Luks2,
    /// Signs of LUKS, but nothing that tells where its keys are.
    Damaged,
    /// No LUKS.
    Other,
}

/// Where key material is, in bytes from the start of the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What it was told from.
    pub kind: Kind,
    /// End of what tells: both header copies.
    pub headers: u64,
    /// End of the keyslot area.
    pub keys: u64,
    /// Starts of the data segments, where dm-integrity keeps its superblock.
    pub segments: Vec<u64>,
}

/// Looks at the partition `[offset, offset + size)` of the disk.
///
/// # Errors
/// The disk cannot be read.
pub fn survey(disk: &dyn Disk, offset: u64, size: u64) -> io::Result<Extent> {
    let mut found = Extent {
        kind: Kind::Other,
        headers: 0,
        keys: 0,
        segments: Vec::new(),
    };
    for place in [0].into_iter().chain(HEADER_SIZES) {
        if place + u64::try_from(BINARY).unwrap_or(u64::MAX) > size {
            break;
        }
        let mut binary = [0; BINARY];
        disk.read_at(offset + place, &mut binary)?;
        if !matches!(&binary[..6], b"LUKS\xba\xbe" | b"SKUL\xba\xbe") {
            continue;
        }
        if found.kind == Kind::Other {
            found.kind = Kind::Damaged;
        }
        if let Some(header) = header_size(&binary)
            && place + header <= size
            && let Some(json) = read_json(disk, offset + place, header)?
        {
            found.kind = Kind::Luks2;
            found.headers = found.headers.max(2 * header);
            found.learn(&json);
        }
    }
    if found.kind != Kind::Luks2 {
        found.headers = HEADERS;
        found.keys = if found.kind == Kind::Damaged { KEYS } else { 0 };
    }
    Ok(found)
}

impl Extent {
    fn learn(&mut self, json: &serde_json::Value) {
        let number = |value: &serde_json::Value| value.as_str()?.parse::<u64>().ok();
        let of = |key: &str| {
            json[key]
                .as_object()
                .into_iter()
                .flat_map(|map| map.values())
        };
        for slot in of("keyslots") {
            if let (Some(start), Some(len)) = (
                number(&slot["area"]["offset"]),
                number(&slot["area"]["size"]),
            ) {
                self.keys = self.keys.max(start.saturating_add(len).min(KEYS));
            }
        }
        if let Some(len) = number(&json["config"]["keyslots_size"]) {
            self.keys = self.keys.max(self.headers.saturating_add(len).min(KEYS));
        }
        for start in of("segments").filter_map(|segment| number(&segment["offset"])) {
            if !self.segments.contains(&start) && self.segments.len() < SEGMENTS {
                self.segments.push(start);
            }
        }
    }
}

fn header_size(binary: &[u8; BINARY]) -> Option<u64> {
    let version = u16::from_be_bytes(binary.get(6..8)?.try_into().ok()?);
    let size = u64::from_be_bytes(binary.get(8..16)?.try_into().ok()?);
    (version == 2 && HEADER_SIZES.contains(&size)).then_some(size)
}

fn read_json(disk: &dyn Disk, at: u64, header: u64) -> io::Result<Option<serde_json::Value>> {
    let area = usize::try_from(header).unwrap_or(BINARY) - BINARY;
    let mut bytes = vec![0; area];
    disk.read_at(at + u64::try_from(BINARY).unwrap_or(0), &mut bytes)?;
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(area);
    Ok(serde_json::from_slice(&bytes[..end])
        .ok()
        .filter(serde_json::Value::is_object))
}
