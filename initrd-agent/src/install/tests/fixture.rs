//! Disks made with other people's tools, and disks that fail.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use repart::{BlockDevice, Disk};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
pub(super) const XBOOTLDR: &str = "bc13c2ff-59e6-4262-a352-b275fd6f7172";
pub(super) const USR: &str = "8484680c-9521-48c6-9c11-b0720656f69e";
pub(super) const VERITY: &str = "77ff5f63-e7b6-4633-acf4-1565b864c0e6";
pub(super) const SIGNATURE: &str = "e7bb33fb-06cf-4e81-8273-e543b413e2e2";
const WINDOWS: &str = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7";
/// The root hash of the source.
pub(super) const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";
pub(super) const USR_UUID: &str = "00112233-4455-6677-8899-aabbccddeeff";
pub(super) const VERITY_UUID: &str = "01234567-89ab-cdef-fedc-ba9876543210";

/// Runs a program to its end.
pub(super) fn tool(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let path = std::env::var("PATH").unwrap();
    let mut child = Command::new(program)
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("MTOOLS_SKIP_CHECK", "1")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {said}");
    output.stdout
}

/// Bytes that no compressor or sparse file takes for nothing.
pub(super) fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut reader = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    reader.fill(&mut bytes);
    bytes
}

/// A PE file with these sections.
pub(super) fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..2].copy_from_slice(b"MZ");
    file[60] = 64;
    file.extend_from_slice(b"PE\0\0\x64\x86");
    file.extend_from_slice(&u16::try_from(sections.len()).unwrap().to_le_bytes());
    file.extend_from_slice(&[0; 16]);
    let mut offset = file.len() + sections.len() * 40;
    for (name, content) in sections {
        let mut header = [0; 40];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let len = u32::try_from(content.len()).unwrap().to_le_bytes();
        header[8..12].copy_from_slice(&len);
        header[16..20].copy_from_slice(&len);
        header[20..24].copy_from_slice(&u32::try_from(offset).unwrap().to_le_bytes());
        file.extend_from_slice(&header);
        offset += content.len();
    }
    for (_, content) in sections {
        file.extend_from_slice(content);
    }
    file
}

pub(super) fn menu() -> Vec<u8> {
    pe(&[
        (".text", &noise(1, 90_000)),
        (".sdmagic", b"#### LoaderInfo: systemd-boot 257 ####"),
    ])
}

pub(super) fn uki(hash: &str) -> Vec<u8> {
    let line = format!("console=ttyS0 usrhash={hash} rw\0");
    pe(&[
        (".cmdline", line.as_bytes()),
        (".linux", &noise(2, 3 * MIB)),
    ])
}

/// A FAT file system with files, made by mkfs.vfat and mtools.
pub(super) fn fat(path: &Path, size: u64, files: &[(&str, Vec<u8>)]) {
    File::create(path).unwrap().set_len(size).unwrap();
    let image = path.to_str().unwrap();
    tool("mkfs.vfat", &["--invariant", image], b"");
    let mut made: Vec<&str> = Vec::new();
    for (name, content) in files {
        for (at, _) in name.match_indices('/') {
            if !made.contains(&&name[..at]) {
                tool("mmd", &["-i", image, &format!("::{}", &name[..at])], b"");
                made.push(&name[..at]);
            }
        }
        tool("mcopy", &["-i", image, "-", &format!("::{name}")], content);
    }
}

/// A partition for [`disk`].
pub(super) struct Piece {
    pub(super) kind: &'static str,
    pub(super) uuid: String,
    pub(super) label: &'static str,
    pub(super) at: u64,
    pub(super) content: Vec<u8>,
}

impl Piece {
    pub(super) fn new(kind: &'static str, label: &'static str, at: u64, content: Vec<u8>) -> Self {
        let uuid = format!("aaaaaaaa-0000-4000-8000-{:012x}", at / MIB);
        Self {
            kind,
            uuid,
            label,
            at,
            content,
        }
    }

    pub(super) fn uuid(mut self, uuid: &str) -> Self {
        uuid.clone_into(&mut self.uuid);
        self
    }
}

/// A disk with a table by sfdisk.
pub(super) fn disk(path: &Path, size: u64, pieces: &[Piece]) {
    let mut file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut script = "label: gpt\n".to_owned();
    for piece in pieces {
        let len = u64::try_from(piece.content.len()).unwrap() / 512;
        let (start, kind, uuid, label) = (piece.at / 512, piece.kind, &piece.uuid, piece.label);
        script.push_str(&format!(
            "start={start}, size={len}, type={kind}, uuid={uuid}, name=\"{label}\"\n"
        ));
        file.seek(SeekFrom::Start(piece.at)).unwrap();
        file.write_all(&piece.content).unwrap();
    }
    tool("sfdisk", &["-q", path.to_str().unwrap()], script.as_bytes());
}

/// A directory with a source.
pub(super) struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    /// The source has systemd-boot, a unified kernel image, another one of an older version, things that must not be
    /// copied, and a `/usr` with hash tree and signature.
    pub(super) fn new() -> Self {
        let lab = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let esp = lab.path("esp");
        let files = [
            ("EFI/BOOT/BOOTX64.EFI", menu()),
            ("EFI/systemd/systemd-bootx64.efi", menu()),
            ("EFI/Linux/system_2+2-1.efi", uki(HASH)),
            ("EFI/Linux/system_1.efi", uki(&HASH.replace('0', "f"))),
            ("loader/loader.conf", b"timeout 3\n".to_vec()),
            ("loader/random-seed", noise(3, 32)),
        ];
        fat(&esp, 16 * MIB, &files);
        let signature = format!("{{\"rootHash\":\"{HASH}\",\"signature\":\"c2ln\"}}");
        let mut signature = signature.into_bytes();
        signature.resize(16 << 10, 0);
        let mut usr = noise(4, 7 * MIB);
        usr.extend(vec![0; 1 << 20]);
        let pieces = [
            Piece::new(ESP, "esp", MIB, fs::read(&esp).unwrap()),
            Piece::new(USR, "system_2", 20 * MIB, usr).uuid(USR_UUID),
            Piece::new(VERITY, "system_2_verity", 30 * MIB, noise(5, MIB)).uuid(VERITY_UUID),
            Piece::new(SIGNATURE, "system_2_sig", 40 * MIB, signature),
        ];
        disk(&lab.path("source"), 64 * MIB, &pieces);
        lab
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn blank(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    /// A disk with another system: an ESP of this size with its boot files, and two partitions.
    pub(super) fn other(&self, name: &str, esp_size: u64, size: u64) -> PathBuf {
        let (path, esp) = (self.path(name), self.path("other-esp"));
        let files = [
            (
                "EFI/Microsoft/Boot/bootmgfw.efi",
                pe(&[(".text", &noise(6, 50_000))]),
            ),
            ("loader/loader.conf", b"default windows\n".to_vec()),
        ];
        fat(&esp, esp_size, &files);
        let next = (2 * MIB + esp_size).next_multiple_of(MIB);
        let pieces = [
            Piece::new(ESP, "", MIB, fs::read(&esp).unwrap()),
            Piece::new(WINDOWS, "Basic data", next, noise(7, 5 * MIB)),
            Piece::new(USR, "another_system", next + 6 * MIB, noise(8, 3 * MIB)),
        ];
        disk(&path, size, &pieces);
        path
    }
}

/// One entry of a table as `sfdisk -J` or `fdisk` sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) kind: String,
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) size: u64,
}

pub(super) fn table(path: &Path) -> Vec<Row> {
    let text = tool("sfdisk", &["-J", path.to_str().unwrap()], b"");
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let table = &json["partitiontable"];
    let sector = table["sectorsize"].as_u64().unwrap();
    let none = Vec::new();
    let rows = table["partitions"].as_array().unwrap_or(&none).iter();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or("").to_owned();
    let row = |row| Row {
        kind: text(row, "type").to_lowercase(),
        uuid: text(row, "uuid").to_lowercase(),
        name: text(row, "name"),
        offset: row["start"].as_u64().unwrap() * sector,
        size: row["size"].as_u64().unwrap() * sector,
    };
    rows.map(row).collect()
}

/// The bytes of a partition.
pub(super) fn bytes(path: &Path, row: &Row) -> Vec<u8> {
    let disk = BlockDevice::open(path, false, None).unwrap();
    let mut bytes = vec![0; usize::try_from(row.size).unwrap()];
    disk.read_at(row.offset, &mut bytes).unwrap();
    bytes
}

/// A file in the FAT volume of a partition, as mtools read it.
pub(super) fn mtype(path: &Path, row: &Row, file: &str) -> Vec<u8> {
    let image = format!("{}@@{}", path.display(), row.offset);
    tool("mtype", &["-i", &image, &format!("::{file}")], b"")
}

/// All files of the volume, as mtools list them.
pub(super) fn listing(path: &Path, row: &Row) -> Vec<String> {
    let image = format!("{}@@{}", path.display(), row.offset);
    let text = tool("mdir", &["-/", "-b", "-a", "-i", &image, "::/"], b"");
    let text = String::from_utf8(text).unwrap();
    let mut files: Vec<String> = text
        .lines()
        .filter(|line| !line.ends_with('/'))
        .map(|line| line.trim_start_matches("::/").to_owned())
        .collect();
    files.sort();
    files
}

/// fsck.vfat finds nothing to say about the volume.
pub(super) fn sound_fat(path: &Path, row: &Row) {
    let copy = path.with_extension("fsck");
    fs::write(&copy, bytes(path, row)).unwrap();
    let said = tool("fsck.vfat", &["-n", copy.to_str().unwrap()], b"");
    let said = String::from_utf8(said).unwrap();
    assert_eq!(said.lines().count(), 2, "{said}");
    fs::remove_file(copy).unwrap();
}

/// A disk whose power fails: writes are only certain to be on it after a flush.
pub(super) struct Failing {
    inner: BlockDevice,
    /// Writes until the power fails.
    left: usize,
    pending: Vec<(u64, Vec<u8>)>,
}

impl Failing {
    pub(super) fn new(path: &Path, left: usize) -> Self {
        let inner = BlockDevice::open(path, true, None).unwrap();
        Self {
            inner,
            left,
            pending: Vec::new(),
        }
    }

    /// Some of what was not flushed is on the disk, some is not.
    pub(super) fn cut(mut self, seed: usize) {
        for (at, (offset, data)) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if (at * 7 + seed).is_multiple_of(3) {
                self.inner.write_at(offset, &data).unwrap();
            }
        }
    }
}

impl Disk for Failing {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)?;
        let end = offset + u64::try_from(buffer.len()).unwrap();
        for (start, data) in &self.pending {
            let (from, to) = (
                offset.max(*start),
                end.min(start + u64::try_from(data.len()).unwrap()),
            );
            if from < to {
                let at = |at: u64| usize::try_from(at).unwrap();
                buffer[at(from - offset)..at(to - offset)]
                    .copy_from_slice(&data[at(from - start)..at(to - start)]);
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("power cut"))?;
        self.pending.push((offset, data.to_vec()));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        for (offset, data) in std::mem::take(&mut self.pending) {
            self.inner.write_at(offset, &data)?;
        }
        Ok(())
    }

    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A disk that forgets one bit of whatever covers an offset.
pub(super) struct Lying {
    pub(super) inner: BlockDevice,
    pub(super) at: u64,
}

impl Disk for Lying {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)?;
        let byte = self
            .at
            .checked_sub(offset)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(byte) = byte.and_then(|at| buffer.get_mut(at)) {
            *byte ^= 4;
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.discard(offset, len)
    }
}
