//! The LUKS2 header as bytes: found, bounded, checksummed and copied into private memory (spec trust 12 B, K).
//!
//! Invariant: what [`super::metadata`] judges is what libcryptsetup later reads. The disk is read once; the copy that
//! was judged is written, as both header copies, into a memfd that nobody else can open.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

/// Size of the binary part.
const BINARY: usize = 4096;
/// Where the checksum is in it.
const CHECKSUM: std::ops::Range<usize> = 448..512;
/// Sizes a header copy may have, so also where the second copy may be.
const SIZES: [u64; 9] = [
    0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000,
];
/// Longest JSON text that is looked at; ours has about 3000 bytes.
const MAX_JSON: usize = 128 * 1024;
/// Deepest nesting; the format has 5.
const MAX_DEPTH: usize = 16;
/// Largest area of key slots that is copied.
pub(super) const MAX_KEYSLOTS: u64 = 128 * 1024 * 1024;

const PRIMARY: &[u8; 6] = b"LUKS\xba\xbe";
const SECONDARY: &[u8; 6] = b"SKUL\xba\xbe";

/// A header copy that does not hold together.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Neither copy is there.
    #[error("there is no LUKS2 header")]
    Absent,
    /// Copies are there, none is intact.
    #[error("both header copies are damaged")]
    Damaged,
    /// LUKS1.
    #[error("the header is of version {0}, only LUKS2 is accepted")]
    Version(u16),
    /// More than is ever parsed.
    #[error("the header's text is too long or nested too deeply")]
    Excessive,
    /// The text is not JSON.
    #[error("the header's text is malformed")]
    Json(#[source] serde_json::Error),
    /// The device cannot be read.
    #[error("the header cannot be read")]
    Read(#[source] io::Error),
}

/// The chosen copy.
#[derive(Debug)]
pub(super) struct Header {
    /// Binary part and text area.
    bytes: Vec<u8>,
    sequence: u64,
    pub(super) uuid: String,
    pub(super) json: serde_json::Value,
}

impl Header {
    /// Reads both copies and takes the newer intact one, as libcryptsetup would.
    pub(super) fn read(device: &File) -> Result<Self, HeaderError> {
        let primary = Self::read_copy(device, 0, PRIMARY);
        let offsets = match &primary {
            Ok(header) => vec![header.size()],
            Err(_) => SIZES.to_vec(),
        };
        let secondary = offsets
            .into_iter()
            .map(|offset| Self::read_copy(device, offset, SECONDARY))
            .find(|copy| !matches!(copy, Err(HeaderError::Absent)))
            .unwrap_or(Err(HeaderError::Absent));
        let header = match (primary, secondary) {
            (Ok(first), Ok(second)) if second.sequence > first.sequence => second,
            (Ok(first), _) => first,
            (Err(HeaderError::Damaged | HeaderError::Absent), Ok(second)) => second,
            (Err(HeaderError::Absent), Err(error)) | (Err(error), _) => return Err(error),
        };
        Ok(header)
    }

    fn read_copy(device: &File, offset: u64, magic: &[u8; 6]) -> Result<Self, HeaderError> {
        let mut binary = vec![0; BINARY];
        match device.read_exact_at(&mut binary, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(HeaderError::Absent);
            }
            result => result.map_err(HeaderError::Read)?,
        }
        if &binary[..6] != magic {
            return Err(HeaderError::Absent);
        }
        let version = u16::from_be_bytes([binary[6], binary[7]]);
        if version != 2 {
            return Err(HeaderError::Version(version));
        }
        let size = be64(&binary, 8);
        // The second copy begins where the first one ends, and both are of one size.
        if !SIZES.contains(&size) || be64(&binary, 256) != offset || (offset != 0 && offset != size)
        {
            return Err(HeaderError::Damaged);
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| HeaderError::Excessive)?];
        device
            .read_exact_at(&mut bytes, offset)
            .map_err(HeaderError::Read)?;
        // Read anew: what is checked below is this buffer and nothing else.
        if bytes[..BINARY] != binary
            || text(&bytes, 72, 32) != "sha256"
            || checksum(&bytes) != bytes[CHECKSUM]
        {
            return Err(HeaderError::Damaged);
        }
        let json = parse(&bytes[BINARY..])?;
        Ok(Self {
            sequence: be64(&bytes, 16),
            uuid: text(&bytes, 168, 40),
            json,
            bytes,
        })
    }

    /// Size of one copy; the second copy begins there.
    pub(super) fn size(&self) -> u64 {
        be64(&self.bytes, 8)
    }

    /// Where the key slots' area begins.
    pub(super) fn keyslots_offset(&self) -> u64 {
        2 * self.size()
    }

    /// Both copies made from this one, and the key slots from the device, in memory.
    pub(super) fn private_copy(&self, device: &File, keyslots_size: u64) -> io::Result<OwnedFd> {
        let size = usize::try_from(keyslots_size.min(MAX_KEYSLOTS)).map_err(io::Error::other)?;
        let memory = File::from(memfd_create("luks2-header", MemfdFlags::CLOEXEC)?);
        memory.write_all_at(&self.copy(PRIMARY, 0), 0)?;
        memory.write_all_at(&self.copy(SECONDARY, self.size()), self.size())?;
        let mut keyslots = vec![0; size];
        device.read_exact_at(&mut keyslots, self.keyslots_offset())?;
        memory.write_all_at(&keyslots, self.keyslots_offset())?;
        Ok(memory.into())
    }

    fn copy(&self, magic: &[u8; 6], offset: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[..6].copy_from_slice(magic);
        bytes[256..264].copy_from_slice(&offset.to_be_bytes());
        let sum = checksum(&bytes);
        bytes[CHECKSUM].copy_from_slice(&sum);
        bytes
    }
}

/// The device's size in bytes.
pub(super) fn size_of(mut device: &File) -> io::Result<u64> {
    device.seek(SeekFrom::End(0))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(value)
}

fn text(bytes: &[u8], at: usize, length: usize) -> String {
    let field = &bytes[at..at + length];
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(length);
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// SHA-256 of the copy with the checksum field zeroed, padded as the field is.
fn checksum(bytes: &[u8]) -> [u8; 64] {
    let digest = Sha256::new()
        .chain_update(&bytes[..CHECKSUM.start])
        .chain_update([0; 64])
        .chain_update(&bytes[CHECKSUM.end..])
        .finalize();
    let mut field = [0; 64];
    field[..32].copy_from_slice(&digest);
    field
}

fn parse(area: &[u8]) -> Result<serde_json::Value, HeaderError> {
    let end = area
        .iter()
        .position(|&byte| byte == 0)
        .ok_or(HeaderError::Excessive)?;
    if end > MAX_JSON || depth(&area[..end]) > MAX_DEPTH {
        return Err(HeaderError::Excessive);
    }
    serde_json::from_slice(&area[..end]).map_err(HeaderError::Json)
}

/// Deepest nesting of brackets; those inside strings count too, which errs on the safe side.
fn depth(json: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut deepest = 0;
    for byte in json {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}
