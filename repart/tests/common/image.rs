//! An independent reader and writer of GPTs for tests: knows nothing of the library's.
//! The dump has the form of `sfdisk --dump`, the writer makes what golden cases start from.

use std::fmt::Write as _;

use serde_json::Value;

/// Bytes of a disk, however they are stored.
pub trait Bytes {
    fn len(&self) -> u64;
    fn get(&self, offset: u64, len: usize) -> Vec<u8>;
    fn put(&mut self, offset: u64, data: &[u8]);
}

impl Bytes for std::fs::File {
    fn len(&self) -> u64 {
        self.metadata().expect("an open file has metadata").len()
    }

    fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut buffer = vec![0; len];
        // Past the end reads as zero.
        let mut done = 0;
        while let Ok(n) =
            std::os::unix::fs::FileExt::read_at(self, &mut buffer[done..], offset + done as u64)
        {
            done += n;
            if n == 0 || done == len {
                break;
            }
        }
        buffer
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        std::os::unix::fs::FileExt::write_all_at(self, data, offset)
            .expect("room on the test machine");
    }
}

impl Bytes for super::journal::MemoryDisk {
    fn len(&self) -> u64 {
        repart::Disk::len(self)
    }

    fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        self.bytes(offset, len)
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        self.store(offset, data);
    }
}

fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(raw[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(raw: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(raw[at..at + 8].try_into().expect("eight bytes"))
}

/// Upper-case text of a GUID in disk order.
fn guid_text(raw: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (at, from) in order.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        write!(text, "{:02X}", raw[from]).expect("strings grow");
    }
    text
}

fn guid_bytes(text: &str) -> Vec<u8> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let plain: Vec<u8> = (0..16)
        .map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).expect("hexadecimal"))
        .collect();
    [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
        .iter()
        .map(|at| plain[*at])
        .collect()
}

/// One used slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub slot: usize,
    pub start: u64,
    pub size: u64,
    pub raw: Vec<u8>,
}

/// What the primary header says.
pub struct Table {
    sector: u64,
    total: u64,
    label_id: String,
    first: u64,
    last: u64,
    slots: u32,
    pub parts: Vec<Part>,
    /// What is wrong with either copy or the MBR.
    pub problems: Vec<String>,
}

fn copy(disk: &impl Bytes, lba: u64, sector: u64) -> Result<(Vec<u8>, Vec<u8>), String> {
    let mut header = disk.get(lba * sector, 92);
    if header[..8] != *b"EFI PART" {
        return Err("no signature".to_owned());
    }
    let sum = u32_at(&header, 16);
    header[16..20].fill(0);
    if crc(&header) != sum {
        return Err("header CRC".to_owned());
    }
    if u64_at(&header, 24) != lba {
        return Err("MyLBA".to_owned());
    }
    let entries = disk.get(
        u64_at(&header, 72) * sector,
        (u32_at(&header, 80) * u32_at(&header, 84)) as usize,
    );
    if crc(&entries) != u32_at(&header, 88) {
        return Err("entries CRC".to_owned());
    }
    Ok((header, entries))
}

impl Table {
    pub fn read(disk: &impl Bytes, sector: u64) -> Option<Self> {
        let total = disk.len() / sector;
        let (header, entries) = copy(disk, 1, sector).ok()?;
        let mut problems = Vec::new();
        match copy(disk, u64_at(&header, 32), sector) {
            Err(what) => problems.push(format!("backup: {what}")),
            Ok((_, other)) if other != entries => problems.push("backup entries differ".to_owned()),
            Ok((other, _)) if other[40..72] != header[40..72] => {
                problems.push("backup header differs".to_owned())
            }
            Ok(_) => {}
        }
        let size = u32_at(&header, 84) as usize;
        let mut parts = Vec::new();
        for (at, raw) in entries.chunks_exact(size).enumerate() {
            if raw[..16] != [0; 16] {
                let start = u64_at(raw, 32);
                parts.push(Part {
                    slot: at + 1,
                    start,
                    size: u64_at(raw, 40) + 1 - start,
                    raw: raw.to_vec(),
                });
            }
        }
        let table = Self {
            sector,
            total,
            label_id: guid_text(&header[56..72]),
            first: u64_at(&header, 40),
            last: u64_at(&header, 48),
            slots: u32_at(&header, 80),
            parts,
            problems,
        };
        Some(table.with_problems())
    }

    fn with_problems(mut self) -> Self {
        let mut sorted: Vec<&Part> = self.parts.iter().collect();
        sorted.sort_by_key(|part| part.start);
        let mut problems = Vec::new();
        for pair in sorted.windows(2) {
            if pair[0].start + pair[0].size > pair[1].start {
                problems.push(format!(
                    "slots {} and {} overlap",
                    pair[0].slot, pair[1].slot
                ));
            }
        }
        for part in &sorted {
            if part.start < self.first || part.start + part.size - 1 > self.last {
                problems.push(format!("slot {} outside usable range", part.slot));
            }
        }
        self.problems.extend(problems);
        self
    }

    /// As `sfdisk --dump` prints it.
    pub fn dump(&self) -> String {
        let mut out = format!(
            "label: gpt\nlabel-id: {}\ndevice: disk\nunit: sectors\nfirst-lba: {}\nlast-lba: {}\n",
            self.label_id, self.first, self.last
        );
        if self.slots != 128 {
            out += &format!("table-length: {}\n", self.slots);
        }
        if self.total <= (4 << 20) / self.sector {
            out += &format!("grain: {}\n", self.sector);
        }
        out += &format!("sector-size: {}\n", self.sector);
        if !self.parts.is_empty() {
            out.push('\n');
        }
        for part in &self.parts {
            out += &part.dump();
        }
        out
    }
}

impl Part {
    pub fn type_uuid(&self) -> String {
        guid_text(&self.raw[..16])
    }

    fn dump(&self) -> String {
        let raw = &self.raw;
        let mut line = format!(
            "disk{} : start={:>12}, size={:>12}, type={}, uuid={}",
            self.slot,
            self.start,
            self.size,
            guid_text(&raw[..16]),
            guid_text(&raw[16..32])
        );
        let units: Vec<u16> = raw[56..128]
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .take_while(|unit| *unit != 0)
            .collect();
        let name = String::from_utf16_lossy(&units);
        if !name.is_empty() {
            line += ", name=\"";
            for byte in name.bytes() {
                if (32..127).contains(&byte) && byte != b'"' && byte != b'\\' {
                    line.push(char::from(byte));
                } else {
                    line += &format!("\\x{byte:02x}");
                }
            }
            line.push('"');
        }
        let attributes = u64_at(raw, 48);
        let names = [
            (0, "RequiredPartition"),
            (1, "NoBlockIOProtocol"),
            (2, "LegacyBIOSBootable"),
        ];
        let mut words: Vec<String> = names
            .iter()
            .filter(|(bit, _)| attributes >> bit & 1 == 1)
            .map(|(_, name)| (*name).to_owned())
            .collect();
        let own: Vec<String> = (48..64)
            .filter(|bit| attributes >> bit & 1 == 1)
            .map(|bit| bit.to_string())
            .collect();
        if !own.is_empty() {
            words.push(format!("GUID:{}", own.join(",")));
        }
        if !words.is_empty() {
            line += &format!(", attrs=\"{}\"", words.join(" "));
        }
        line + "\n"
    }
}

const TYPES: &[(&str, &str)] = &[
    ("esp", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    ("xbootldr", "bc13c2ff-59e6-4262-a352-b275fd6f7172"),
    ("swap", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
    ("home", "933ac7e1-2eb4-4f13-b844-0e14e2aef915"),
    ("srv", "3b8f8425-20e0-4f3b-907f-1a25a76f98e8"),
    ("var", "4d21b016-b534-45c2-a9fb-5c16e091fd2d"),
    ("tmp", "7ec6f557-3bc5-4aca-b293-16ef5df639d1"),
    ("linux-generic", "0fc63daf-8483-4772-8e79-3d69d8477de4"),
    ("root", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    ("root-verity", "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
    ("root-verity-sig", "41092b05-9fc8-4523-994f-2def0408b176"),
    ("usr", "8484680c-9521-48c6-9c11-b0720656f69e"),
    ("usr-verity", "77ff5f63-e7b6-4633-acf4-1565b864c0e6"),
    ("usr-verity-sig", "e7bb33fb-06cf-4e81-8273-e543b413e2e2"),
];

/// UUID of a type name, or the text itself.
pub fn type_uuid(name: &str) -> &str {
    TYPES
        .iter()
        .find(|(known, _)| *known == name)
        .map_or(name, |(_, uuid)| uuid)
}

/// Writes the table a case describes (`"op": "gpt"`).
pub fn write_gpt(disk: &mut impl Bytes, spec: &Value, sector: u64) {
    let total = disk.len() / sector;
    let array = 128 * 128 / sector;
    let number = |value: &Value, default: u64| value.as_u64().unwrap_or(default);
    let mut entries = vec![0u8; 128 * 128];
    for part in spec["parts"].as_array().expect("parts") {
        let slot = number(&part["slot"], 1) as usize - 1;
        let raw = &mut entries[slot * 128..][..128];
        let (start, size) = (number(&part["start"], 0), number(&part["size"], 0));
        raw[..16].copy_from_slice(&guid_bytes(type_uuid(part["type"].as_str().expect("type"))));
        raw[16..32].copy_from_slice(&guid_bytes(part["uuid"].as_str().expect("uuid")));
        raw[32..40].copy_from_slice(&start.to_le_bytes());
        raw[40..48].copy_from_slice(&(start + size - 1).to_le_bytes());
        raw[48..56].copy_from_slice(&number(&part["attrs"], 0).to_le_bytes());
        for (at, unit) in part["name"]
            .as_str()
            .unwrap_or_default()
            .encode_utf16()
            .take(36)
            .enumerate()
        {
            raw[56 + at * 2..][..2].copy_from_slice(&unit.to_le_bytes());
        }
    }
    let first = number(&spec["first_lba"], ((1 << 20) / sector).max(2 + array));
    let last = number(&spec["last_lba"], total - 2 - array);
    let guid = guid_bytes(
        spec["label_id"]
            .as_str()
            .unwrap_or("00000000-0000-0000-0000-000000000000"),
    );
    write_copies(disk, sector, &entries, [first, last], &guid);
}

/// Frees a slot and writes both copies anew (`"op": "delete"`).
pub fn delete(disk: &mut impl Bytes, slot: u64, sector: u64) {
    let (header, mut entries) = copy(disk, 1, sector).expect("a table");
    entries[(slot as usize - 1) * 128..][..128].fill(0);
    write_copies(
        disk,
        sector,
        &entries,
        [u64_at(&header, 40), u64_at(&header, 48)],
        &header[56..72],
    );
}

fn write_copies(disk: &mut impl Bytes, sector: u64, entries: &[u8], usable: [u64; 2], guid: &[u8]) {
    let total = disk.len() / sector;
    let array = entries.len() as u64 / sector;
    let backup = total - 1 - array;
    let mut mbr = disk.get(0, 512);
    mbr[446..462].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
    mbr[458..462].copy_from_slice(&u32::try_from(total - 1).unwrap_or(u32::MAX).to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.put(0, &mbr);
    for (own, other, at) in [(1, total - 1, 2), (total - 1, 1, backup)] {
        let mut header = vec![0u8; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x10000u32.to_le_bytes());
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[24..32].copy_from_slice(&u64::to_le_bytes(own));
        header[32..40].copy_from_slice(&u64::to_le_bytes(other));
        header[40..48].copy_from_slice(&usable[0].to_le_bytes());
        header[48..56].copy_from_slice(&usable[1].to_le_bytes());
        header[56..72].copy_from_slice(guid);
        header[72..80].copy_from_slice(&u64::to_le_bytes(at));
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc(entries).to_le_bytes());
        let sum = crc(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        disk.put(own * sector, &header);
        disk.put(at * sector, entries);
    }
}

/// A plain MBR table (`"op": "dos"`).
pub fn write_dos(disk: &mut impl Bytes) {
    let mut entry = vec![0, 0, 33, 0, 0x83, 0, 1, 1];
    entry.extend(2048u32.to_le_bytes());
    entry.extend(20480u32.to_le_bytes());
    disk.put(446, &entry);
    disk.put(510, &[0x55, 0xaa]);
}

/// CRC-32 as GPT has it: the test's own.
fn crc(data: &[u8]) -> u32 {
    let table = TABLE.get_or_init(|| {
        std::array::from_fn(|at| {
            let step = |sum: u32| {
                if sum & 1 == 1 {
                    sum >> 1 ^ 0xedb8_8320
                } else {
                    sum >> 1
                }
            };
            (0..8).fold(u32::try_from(at).expect("at most 255"), |sum, _| step(sum))
        })
    });
    !data.iter().fold(u32::MAX, |sum, byte| {
        table[((sum ^ u32::from(*byte)) & 0xff) as usize] ^ sum >> 8
    })
}

static TABLE: std::sync::OnceLock<[u32; 256]> = std::sync::OnceLock::new();
