//! What is installed: the partitions of one version of `/usr` and the boot files that belong to it.
//!
//! Invariant: everything is told by the root hash. The pair of partitions carries its halves as UUIDs, a unified
//! kernel image names it on its command line, a signature contains it; files of other systems are left out.

use std::io::{Read, Seek, SeekFrom};

use fatfs::FileSystem;
use repart::{Designator, Disk, Entry, Guid, PartitionType, TableState, observe};

use super::error::InstallError;
use super::fat::{FatError, Window, io, options};
use super::uki::{self, Kind};

/// The longest signature partition we read (the content of a larger one is padding).
const SIGNATURE_MAX: u64 = 16 << 10;
/// Directories deeper than this are no boot files.
const DEPTH_MAX: usize = 6;

/// A partition to be copied.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) kind: PartitionType,
    pub(super) uuid: Guid,
    pub(super) label: String,
    pub(super) attributes: u64,
    /// Bytes from the start of the source disk.
    pub(super) offset: u64,
    /// Bytes to copy.
    pub(super) size: u64,
}

/// A file to be copied.
#[derive(Debug, Clone)]
pub(super) struct BootFile {
    /// Path in the volume, no leading slash.
    pub(super) path: String,
    pub(super) len: u64,
    pub(super) hash: blake3::Hash,
    pub(super) kind: Kind,
    /// The volume it is in: offset and size.
    volume: (u64, u64),
    /// Its path there.
    from: String,
}

/// The source.
pub(super) struct Source {
    pub(super) disk: Box<dyn Disk>,
    pub(super) name: String,
    pub(super) usrhash: [u8; 32],
    /// Data, hash tree, and the signature if there is one.
    pub(super) parts: Vec<Part>,
    pub(super) files: Vec<BootFile>,
}

impl Source {
    /// Finds everything on a disk. `usrhash` says which version, `esp` which boot partition; both can be told from
    /// the disk if it has only one.
    pub(super) fn inspect(
        disk: Box<dyn Disk>,
        name: &str,
        usrhash: Option<[u8; 32]>,
        esp: Option<&str>,
    ) -> Result<Self, InstallError> {
        let refuse = |why: String| InstallError::Source {
            disk: name.to_owned(),
            why,
        };
        let snapshot = observe(&*disk).map_err(|source| InstallError::Observe {
            disk: name.to_owned(),
            source,
        })?;
        let TableState::Gpt(gpt) = &snapshot.table else {
            return Err(refuse("it has no GPT".to_owned()));
        };
        let sector = u64::from(snapshot.sector_size);
        let entries: Vec<Entry> = gpt.table.used().collect();
        let mut all = Vec::new();
        for entry in boot_partitions(&entries, esp) {
            let range = range(entry, sector);
            let walked = walk(&*disk, range).map_err(|error| {
                refuse(format!("partition {}: {}", entry.number, chain(&error)))
            })?;
            all.extend(walked);
        }
        let hashes = named(&all);
        let usrhash = match usrhash {
            Some(hash) => hash,
            None => only_hash(&hashes, &entries).map_err(refuse)?,
        };
        if !hashes.contains(&usrhash) {
            let seen = list(&hashes);
            return Err(refuse(format!(
                "no boot file on it names usrhash={}; seen: {seen}",
                uki::hex(&usrhash)
            )));
        }
        let parts = parts(&*disk, &entries, sector, &usrhash).map_err(refuse)?;
        let files = belonging(all, &usrhash);
        Ok(Self {
            disk,
            name: name.to_owned(),
            usrhash,
            parts,
            files,
        })
    }

    /// The partition of this type.
    pub(super) fn part(&self, kind: &PartitionType) -> Option<&Part> {
        self.parts.iter().find(|part| part.kind == *kind)
    }

    /// Hands a boot file to `sink` in pieces.
    pub(super) fn read_file(
        &self,
        file: &BootFile,
        mut sink: impl FnMut(&[u8]) -> Result<(), FatError>,
    ) -> Result<(), FatError> {
        let (offset, size) = file.volume;
        let window = Window::read(&*self.disk, offset, size)?;
        read_all(window, &file.from, &mut sink)
    }
}

/// Reads a file of a volume to its end.
pub(super) fn read_all(
    window: Window<'_>,
    path: &str,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), FatError>,
) -> Result<(), FatError> {
    let fail = || format!("read {path}");
    let volume = FileSystem::new(window, options()).map_err(io(fail()))?;
    let mut file = volume.root_dir().open_file(path).map_err(io(fail()))?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..]).map_err(io(fail()))? {
                0 => break,
                len => filled += len,
            }
        }
        if filled == 0 {
            return Ok(());
        }
        sink(&buffer[..filled])?;
    }
}

/// Bytes from the start of the disk, and how many.
pub(super) fn range(entry: &Entry, sector: u64) -> (u64, u64) {
    let sectors = entry
        .last_lba
        .saturating_sub(entry.first_lba)
        .saturating_add(1);
    (
        entry.first_lba.saturating_mul(sector),
        sectors.saturating_mul(sector),
    )
}

/// The ESP we were started from, or the first; and XBOOTLDR.
fn boot_partitions<'a>(entries: &'a [Entry], esp: Option<&str>) -> Vec<&'a Entry> {
    let of = |wanted: Designator| {
        let mut all = entries
            .iter()
            .filter(move |entry| entry.partition_type.designator() == wanted)
            .peekable();
        let first = all.peek().copied();
        all.find(|entry| esp.is_some_and(|uuid| entry.guid.to_string() == uuid))
            .or(first)
    };
    [of(Designator::Esp), of(Designator::Xbootldr)]
        .into_iter()
        .flatten()
        .collect()
}

fn named(files: &[BootFile]) -> Vec<[u8; 32]> {
    let mut hashes = Vec::new();
    for file in files {
        if let Some(hash) = hash_of(file).filter(|hash| !hashes.contains(hash)) {
            hashes.push(hash);
        }
    }
    hashes
}

fn hash_of(file: &BootFile) -> Option<[u8; 32]> {
    match &file.kind {
        Kind::Uki(cmdline) => uki::usrhash(cmdline),
        _ => None,
    }
}

/// The halves of the root hash are the UUIDs of data and hash tree (Discoverable Partitions Specification).
fn halves(hash: &[u8; 32]) -> [Guid; 2] {
    let half = |from: usize| Guid::from_bytes(std::array::from_fn(|at| hash[from + at]));
    [half(0), half(16)]
}

fn list(hashes: &[[u8; 32]]) -> String {
    if hashes.is_empty() {
        return "none".to_owned();
    }
    hashes.iter().map(uki::hex).collect::<Vec<_>>().join(", ")
}

fn only_hash(hashes: &[[u8; 32]], entries: &[Entry]) -> Result<[u8; 32], String> {
    let whole: Vec<[u8; 32]> = hashes
        .iter()
        .filter(|hash| {
            halves(hash)
                .iter()
                .all(|uuid| entries.iter().any(|entry| entry.guid == *uuid))
        })
        .copied()
        .collect();
    match whole.as_slice() {
        [one] => Ok(*one),
        [] => Err(format!(
            "no boot file with a usrhash= whose partitions are there; seen: {}",
            list(hashes)
        )),
        several => Err(format!(
            "it carries {} versions; choose with --usrhash: {}",
            several.len(),
            list(several)
        )),
    }
}

fn parts(
    disk: &dyn Disk,
    entries: &[Entry],
    sector: u64,
    hash: &[u8; 32],
) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let wanted = [Designator::Usr, Designator::UsrVerity];
    for (uuid, designator) in halves(hash).into_iter().zip(wanted) {
        let mut found = entries
            .iter()
            .filter(|entry| entry.guid == uuid && entry.partition_type.designator() == designator);
        match (found.next(), found.next()) {
            (Some(entry), None) => parts.push(part(entry, sector)),
            (None, _) => return Err(format!("no {designator:?} partition has UUID {uuid}")),
            (Some(_), Some(_)) => return Err(format!("two partitions have UUID {uuid}")),
        }
    }
    let text = uki::hex(hash);
    for entry in entries {
        if entry.partition_type.designator() != Designator::UsrVeritySig {
            continue;
        }
        let mut part = part(entry, sector);
        part.size = part.size.min(SIGNATURE_MAX);
        let mut content = vec![0; usize::try_from(part.size).unwrap_or(0)];
        disk.read_at(part.offset, &mut content)
            .map_err(|error| format!("partition {}: {error}", entry.number))?;
        let end = content
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(content.len());
        let json: Option<serde_json::Value> = serde_json::from_slice(&content[..end]).ok();
        let names = json
            .as_ref()
            .and_then(|json| json.get("rootHash")?.as_str());
        if names.is_some_and(|named| named.eq_ignore_ascii_case(&text)) {
            parts.push(part);
            break;
        }
    }
    Ok(parts)
}

fn part(entry: &Entry, sector: u64) -> Part {
    let (offset, size) = range(entry, sector);
    Part {
        kind: entry.partition_type,
        uuid: entry.guid,
        label: entry.label.clone(),
        attributes: entry.attributes,
        offset,
        size,
    }
}

/// Every file that could be a boot file, with its hash.
fn walk(disk: &dyn Disk, volume: (u64, u64)) -> Result<Vec<BootFile>, FatError> {
    let mut found = Vec::new();
    let window = Window::read(disk, volume.0, volume.1)?;
    let system = FileSystem::new(window, options()).map_err(io("open the file system"))?;
    let mut waiting = vec![(String::new(), 0)];
    while let Some((dir, depth)) = waiting.pop() {
        let root = system.root_dir();
        let open = if dir.is_empty() {
            Ok(root)
        } else {
            root.open_dir(&dir)
        };
        for entry in open.map_err(io(format!("open {dir}")))?.iter() {
            let entry = entry.map_err(io(format!("list {dir}")))?;
            let name = entry.file_name();
            if matches!(name.as_str(), "." | "..") {
                continue;
            }
            let path = if dir.is_empty() {
                name
            } else {
                format!("{dir}/{name}")
            };
            if entry.is_dir() {
                if depth < DEPTH_MAX && may_hold_ours(&path) {
                    waiting.push((path, depth + 1));
                }
            } else if is_ours(&path) {
                let mut file = entry.to_file();
                let read = || io(format!("read {path}"));
                let kind = uki::inspect(&mut file).map_err(read())?;
                file.seek(SeekFrom::Start(0)).map_err(read())?;
                let mut hasher = blake3::Hasher::new();
                std::io::copy(&mut file, &mut hasher).map_err(read())?;
                let (len, hash, from) = (entry.len(), hasher.finalize(), path.clone());
                found.push(BootFile {
                    path,
                    len,
                    hash,
                    kind,
                    volume,
                    from,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn may_hold_ours(dir: &str) -> bool {
    let lower = dir.to_ascii_lowercase();
    [
        "efi",
        "efi/boot",
        "efi/systemd",
        "loader",
        "loader/addons",
        "loader/keys",
    ]
    .contains(&lower.as_str())
        || lower.starts_with("efi/linux")
        || lower.starts_with("loader/keys/")
}

/// Boot loader, its configuration and keys, unified kernel images with their addons. No entries, no random seed (a
/// second machine must not start with the same one), no credentials (sealed to this machine), nothing of others.
fn is_ours(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let Some((dir, name)) = lower.rsplit_once('/') else {
        return false;
    };
    let efi = name.ends_with(".efi");
    match dir {
        "efi/boot" => efi && name.starts_with("boot"),
        "efi/systemd" | "efi/linux" | "loader/addons" => efi,
        "loader" => matches!(name, "loader.conf" | "entries.srel"),
        _ if dir.starts_with("efi/linux/") => efi,
        _ => dir.starts_with("loader/keys/"),
    }
}

/// Without the images of other versions and their addons; names without boot counters.
fn belonging(files: Vec<BootFile>, hash: &[u8; 32]) -> Vec<BootFile> {
    let kept: Vec<String> = files
        .iter()
        .filter(|file| hash_of(file) == Some(*hash))
        .map(|file| file.path.to_ascii_lowercase())
        .collect();
    let mut files: Vec<BootFile> = files
        .into_iter()
        .filter(|file| match (&file.kind, addon_of(&file.path)) {
            (_, Some(image)) => kept.contains(&image),
            (Kind::Uki(_), None) => hash_of(file) == Some(*hash),
            (_, None) => !file.path.to_ascii_lowercase().starts_with("efi/linux/"),
        })
        .collect();
    for file in &mut files {
        file.path = without_counter(&file.path);
    }
    files.dedup_by(|second, first| second.path == first.path);
    files
}

/// The image that `EFI/Linux/NAME.efi.extra.d/x.addon.efi` belongs to, lower case.
fn addon_of(path: &str) -> Option<String> {
    let lower = path.to_ascii_lowercase();
    let (dir, _) = lower.rsplit_once('/')?;
    let image = dir.strip_suffix(".extra.d")?;
    image.starts_with("efi/linux/").then(|| image.to_owned())
}

/// `NAME+LEFT-DONE.efi` counts boots of one machine; the copy starts as good.
fn without_counter(path: &str) -> String {
    let Some((stem, rest)) = path.split_once(".efi") else {
        return path.to_owned();
    };
    let Some((name, counter)) = stem.rsplit_once('+') else {
        return path.to_owned();
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let counts = match counter.split_once('-') {
        Some((left, done)) => digits(left) && digits(done),
        None => digits(counter),
    };
    if counts {
        format!("{name}.efi{rest}")
    } else {
        path.to_owned()
    }
}

fn chain(error: &FatError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_counters_are_not_copied() {
        for (from, to) in [
            ("EFI/Linux/a_1+2-1.efi", "EFI/Linux/a_1.efi"),
            ("EFI/Linux/a+3.efi", "EFI/Linux/a.efi"),
            ("EFI/Linux/a+b.efi", "EFI/Linux/a+b.efi"),
            (
                "EFI/Linux/a+1.efi.extra.d/x.efi",
                "EFI/Linux/a.efi.extra.d/x.efi",
            ),
            ("loader/loader.conf", "loader/loader.conf"),
        ] {
            assert_eq!(without_counter(from), to);
        }
    }

    #[test]
    fn what_belongs_to_a_machine_or_to_others_is_left() {
        for path in [
            "loader/random-seed",
            "loader/credentials/x.cred",
            "EFI/Microsoft/Boot/bootmgfw.efi",
            "EFI/BOOT/grub.cfg",
            "EFI/Linux/notes.txt",
            "startup.nsh",
        ] {
            assert!(!is_ours(path), "{path}");
        }
        for path in [
            "EFI/BOOT/BOOTX64.EFI",
            "EFI/Linux/a.efi",
            "loader/keys/auto/PK.auth",
        ] {
            assert!(is_ours(path), "{path}");
        }
    }
}
