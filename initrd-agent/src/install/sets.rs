//! Sets of definitions: read, built in, and fitted to a disk with other systems on it.
//!
//! Invariant: a definition of ours is only ever matched with a partition that carries our UUID, or with a boot volume
//! that stays as it is. repart matches by type in slot order, so each entry of another system's `/usr` gets a
//! definition of its own that asks for nothing.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use repart::definition::{CopyBlocks, Encrypt, Format};
use repart::{
    Definition, Definitions, Designator, DirFiles, Entry, FileContent, Files, Guid, LoadContext,
    PartitionType, Snapshot, TableState,
};

use super::error::{InstallError, Refusal, Unfit};
use super::source::{Source, range};

/// Room for some versions of the unified kernel image.
pub(super) const BOOT_SIZE: u64 = 512 << 20;
const READ_ONLY: u64 = 1 << 60;
const NO_AUTO: u64 = 1 << 63;
const GROW: u64 = 1 << 59;

/// A set and where it comes from.
pub(super) struct Set {
    pub(super) name: String,
    pub(super) definitions: Definitions,
}

/// The sets to try, the best first.
pub(super) fn load(
    ideal: &[PathBuf],
    fallback: &[PathBuf],
    boot_size: u64,
    source: &Source,
) -> Result<Vec<Set>, InstallError> {
    let mut sets = Vec::new();
    for (dirs, what) in [(ideal, "definitions"), (fallback, "fallback definitions")] {
        if !dirs.is_empty() {
            let list: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            let definitions = Definitions::load(&DirFiles, dirs, &LoadContext::default())?;
            sets.push(Set {
                name: format!("{what} {}", list.join(", ")),
                definitions,
            });
        }
    }
    if ideal.is_empty() {
        // Given alone, fallback definitions still come second.
        sets.insert(0, built_in(false, boot_size, source)?);
        if fallback.is_empty() {
            sets.push(built_in(true, boot_size, source)?);
        }
    }
    Ok(sets)
}

fn built_in(xbootldr: bool, boot_size: u64, source: &Source) -> Result<Set, InstallError> {
    let name = if xbootldr {
        "built-in definitions with XBOOTLDR"
    } else {
        "built-in definitions"
    };
    let boot = format!("Format=vfat\nSizeMinBytes={boot_size}\nSizeMaxBytes={boot_size}\n");
    let mut files = Vec::new();
    let mut add = |name: &str, lines: String| {
        files.push((
            OsString::from(name),
            format!("[Partition]\n{lines}").into_bytes(),
        ));
    };
    add(
        "00-esp.conf",
        format!(
            "Type=esp\n{}",
            if xbootldr { "Format=vfat\n" } else { &boot }
        ),
    );
    if xbootldr {
        add("05-xbootldr.conf", format!("Type=xbootldr\n{boot}"));
    }
    for (at, part) in source.parts.iter().enumerate().rev() {
        let kind = part.kind.name_or_uuid();
        add(
            &format!("{}0-{kind}.conf", 9 - at),
            format!("Type={kind}\nCopyBlocks=auto\n"),
        );
    }
    let dir = PathBuf::from("(built in)");
    let definitions = Definitions::load(&Memory { files }, &[dir], &LoadContext::default())?;
    Ok(Set {
        name: name.to_owned(),
        definitions,
    })
}

struct Memory {
    files: Vec<(OsString, Vec<u8>)>,
}

impl Files for Memory {
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let top = dir.extension().is_none();
        Ok(self
            .files
            .iter()
            .filter(|_| top)
            .map(|(name, _)| name.clone())
            .collect())
    }

    fn read(&self, path: &Path) -> io::Result<FileContent> {
        let found = self
            .files
            .iter()
            .find(|(name, _)| Some(name.as_os_str()) == path.file_name());
        Ok(found.map_or(FileContent::Other, |(_, text)| {
            FileContent::Text(text.clone())
        }))
    }
}

/// A set made fit for one disk.
pub(super) struct Fitted {
    pub(super) definitions: Definitions,
    /// Types that get space but are made by the first boot.
    pub(super) defer: Vec<PartitionType>,
    pub(super) notes: Vec<String>,
}

/// Fits a set to what is on the disk.
pub(super) fn fit(set: &Set, snapshot: &Snapshot, source: &Source) -> Result<Fitted, Refusal> {
    let entries: Vec<Entry> = match &snapshot.table {
        TableState::Gpt(gpt) => gpt.table.used().collect(),
        _ => Vec::new(),
    };
    let sector = u64::from(snapshot.sector_size);
    fit_all(set, &entries, sector, source).map_err(|why| Refusal {
        set: set.name.clone(),
        why: Box::new(why),
    })
}

fn fit_all(set: &Set, entries: &[Entry], sector: u64, source: &Source) -> Result<Fitted, Unfit> {
    let mut fitted = Fitted {
        definitions: Definitions::default(),
        defer: Vec::new(),
        notes: Vec::new(),
    };
    for definition in &set.definitions.list {
        let mut own = definition.clone();
        let kind = own.partition_type;
        let boot = matches!(kind.designator(), Designator::Esp | Designator::Xbootldr);
        match (&own.content.copy_blocks, boot) {
            (Some(CopyBlocks::Auto), false) => {
                if source.part(&kind).is_none() {
                    fitted.notes.push(absent(&own, source)?);
                    continue;
                }
                copied(&mut own, source);
                surround(&mut fitted.definitions.list, own, entries);
                continue;
            }
            (Some(_), _) => {
                return Err(bad(
                    &own,
                    "only CopyBlocks=auto is for an installer, of /usr partitions",
                ));
            }
            (None, true) => boot_volume(&mut own, entries, sector)?,
            (None, false) if own.content.is_any() => fitted.defer.push(kind),
            (None, false) => {}
        }
        fitted.definitions.list.push(own);
    }
    for part in &source.parts {
        let ours = |definition: &&Definition| {
            definition.partition_type == part.kind
                && definition.content.copy_blocks == Some(CopyBlocks::Auto)
        };
        if fitted.definitions.list.iter().filter(ours).count() != 1 {
            return Err(Unfit::Definitions(format!(
                "not exactly one definition has Type={} and CopyBlocks=auto",
                part.kind.name_or_uuid()
            )));
        }
    }
    Ok(fitted)
}

fn bad(definition: &Definition, what: &str) -> Unfit {
    Unfit::Definitions(format!("{}: {what}", definition.path.display()))
}

/// A definition for a partition that the source has not.
fn absent(definition: &Definition, source: &Source) -> Result<String, Unfit> {
    if definition.partition_type.designator() == Designator::UsrVeritySig {
        return Ok(format!(
            "{} has no signature of its /usr to install",
            source.name
        ));
    }
    Err(bad(
        definition,
        &format!(
            "{} has no {} that belongs to what is installed",
            source.name,
            definition.partition_type.name_or_uuid()
        ),
    ))
}

/// Takes over what the source's partition says of itself.
fn copied(definition: &mut Definition, source: &Source) {
    let Some(part) = source.part(&definition.partition_type) else {
        return;
    };
    definition.content.copy_blocks_size = Some(part.size);
    definition.content.copy_blocks_uuid = Some(part.uuid);
    definition.uuid = Some(part.uuid);
    definition.label.get_or_insert_with(|| part.label.clone());
    definition.size_min = Some(definition.size_min.unwrap_or(0).max(part.size));
    definition.size_max.get_or_insert(part.size);
    let bit = |bit: u64| Some(part.attributes & bit != 0);
    definition.read_only = definition.read_only.or(bit(READ_ONLY));
    definition.no_auto = definition.no_auto.or(bit(NO_AUTO));
    definition.grow_file_system = definition.grow_file_system.or(bit(GROW));
}

/// Pushes the definition among one for each partition of its type that is not ours, so that repart's matching by
/// slot order pairs it with ours, or with none.
fn surround(list: &mut Vec<Definition>, own: Definition, entries: &[Entry]) {
    let mut own = Some(own);
    let Some(uuid) = own.as_ref().and_then(|own| own.uuid) else {
        return;
    };
    let template = own.clone();
    let kind = own.as_ref().map(|own| own.partition_type);
    for entry in entries
        .iter()
        .filter(|entry| Some(entry.partition_type) == kind)
    {
        if entry.guid == uuid {
            list.extend(own.take());
        } else if let Some(mut other) = template.clone() {
            other.path = PathBuf::from(format!("(partition {} as it is)", entry.number));
            other.content = repart::definition::Content::default();
            keep(&mut other, entry);
            list.push(other);
        }
    }
    list.extend(own);
}

/// Asks for nothing of an entry that is there.
fn keep(definition: &mut Definition, entry: &Entry) {
    definition.size_min = Some(0);
    definition.size_max = Some(0);
    definition.padding_min = None;
    definition.padding_max = None;
    definition.padding_weight = 0;
    definition.factory_reset = false;
    definition.uuid = entry.guid.is_null().then_some(Guid::NULL);
    // An empty label would be filled in.
    definition.label = entry.label.is_empty().then(String::new);
}

/// An ESP or XBOOTLDR that is there is used as it is.
fn boot_volume(definition: &mut Definition, entries: &[Entry], sector: u64) -> Result<(), Unfit> {
    let content = &mut definition.content;
    if content.encrypt != Encrypt::Off {
        return Err(bad(definition, "a boot volume cannot be encrypted"));
    }
    match &content.format {
        None => content.format = Some(Format::Vfat),
        Some(Format::Vfat) => {}
        Some(_) => return Err(bad(definition, "a boot volume needs Format=vfat")),
    }
    let kind = definition.partition_type;
    let Some(entry) = entries.iter().find(|entry| entry.partition_type == kind) else {
        return Ok(());
    };
    let (_, size) = range(entry, sector);
    let need = definition.size_min.unwrap_or(0);
    if need > size && definition.path.parent() != Some(Path::new("(built in)")) {
        return Err(Unfit::Small {
            number: entry.number,
            label: entry.label.clone(),
            size,
            path: definition.path.display().to_string(),
            need,
        });
    }
    keep(definition, entry);
    Ok(())
}
