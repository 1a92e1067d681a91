//! What a PE file is, as far as an installer has to know: a unified kernel image with its command line, or a loader.
//! Source: Microsoft PE format; systemd-stub(7) for the section names; UAPI.5.

use std::io::{self, Read, Seek, SeekFrom};

/// A command line is never longer.
const CMDLINE_MAX: u64 = 64 << 10;
const SECTIONS_MAX: u16 = 96;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A unified kernel image and its command line.
    Uki(String),
    /// systemd-boot: it finds unified kernel images by itself, also in XBOOTLDR.
    Menu,
    /// Another EFI program.
    Loader,
    /// Something else.
    Other,
}

/// Looks into a file.
pub(super) fn inspect(file: &mut (impl Read + Seek)) -> io::Result<Kind> {
    match sections(file) {
        Ok(Some(sections)) => classify(file, &sections),
        Ok(None) => Ok(Kind::Other),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Kind::Other),
        Err(error) => Err(error),
    }
}

fn classify(file: &mut (impl Read + Seek), sections: &[Section]) -> io::Result<Kind> {
    let find = |name: &[u8]| sections.iter().find(|section| section.name() == name);
    if find(b".linux").is_some() {
        let line = match find(b".cmdline") {
            Some(section) => section.read(file)?,
            None => Vec::new(),
        };
        let text = String::from_utf8_lossy(&line);
        return Ok(Kind::Uki(
            text.trim_end_matches(['\0', '\n', ' ']).to_owned(),
        ));
    }
    // systemd-boot names itself: "#### LoaderInfo: systemd-boot 257 ####".
    let menu = match find(b".sdmagic") {
        Some(section) => section
            .read(file)?
            .windows(12)
            .any(|w| w == b"systemd-boot"),
        None => false,
    };
    Ok(if menu { Kind::Menu } else { Kind::Loader })
}

struct Section {
    raw_name: [u8; 8],
    offset: u64,
    len: u64,
}

impl Section {
    fn name(&self) -> &[u8] {
        let end = self
            .raw_name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(8);
        &self.raw_name[..end]
    }

    fn read(&self, file: &mut (impl Read + Seek)) -> io::Result<Vec<u8>> {
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(self.len.min(CMDLINE_MAX))
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// The sections, or `None` where it is no PE file.
fn sections(file: &mut (impl Read + Seek)) -> io::Result<Option<Vec<Section>>> {
    let mut dos = [0; 64];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut dos)?;
    let start = u64::from(long(&dos, 60));
    if dos[..2] != *b"MZ" {
        return Ok(None);
    }
    let mut coff = [0; 24];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut coff)?;
    let count = word(&coff, 6);
    if coff[..4] != *b"PE\0\0" || count > SECTIONS_MAX {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(start + 24 + u64::from(word(&coff, 20))))?;
    let mut sections = Vec::new();
    for _ in 0..count {
        let mut raw = [0; 40];
        file.read_exact(&mut raw)?;
        let raw_name = std::array::from_fn(|at| raw[at]);
        // The virtual size is the content's; the raw one is padded.
        let len = u64::from(long(&raw, 8).min(long(&raw, 16)));
        sections.push(Section {
            raw_name,
            offset: u64::from(long(&raw, 20)),
            len,
        });
    }
    Ok(Some(sections))
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// The value of `usrhash=` on a command line, if it is one SHA-256 hash.
pub(super) fn usrhash(cmdline: &str) -> Option<[u8; 32]> {
    let text = cmdline
        .split_whitespace()
        .find_map(|word| word.strip_prefix("usrhash="))?;
    parse_hash(text)
}

/// 64 hexadecimal digits.
pub(super) fn parse_hash(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// As `usrhash=` writes it.
pub(super) fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
