//! Which boot file goes into which volume, and putting it there.
//!
//! Invariant: a file that is there is never overwritten. One with our content is left as it is, one with other
//! content belongs to somebody else; ours then gets another name, or is left out where only one can be.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};

use fatfs::FileSystem;
use repart::{Designator, Disk, Plan, PlannedPartition};

use super::error::Unfit;
use super::fat::{FatError, Window, io, options};
use super::format::cluster_size;
use super::source::{BootFile, Source, read_all};
use super::uki::{self, Kind};

/// A file to be in a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Put {
    /// Index in [`Source::files`].
    pub(super) file: usize,
    /// Path in the volume.
    pub(super) path: String,
    /// It is there already.
    pub(super) present: bool,
}

/// A volume with boot files.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) number: u32,
    pub(super) label: String,
    pub(super) offset: u64,
    pub(super) size: u64,
    /// It does not exist yet.
    pub(super) created: bool,
    pub(super) puts: Vec<Put>,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Placement {
    pub(super) volumes: Vec<Volume>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

impl Placement {
    /// Bytes that will be written into volumes.
    pub(super) fn bytes(&self, source: &Source) -> u64 {
        let missing = self.volumes.iter().flat_map(|volume| volume.missing());
        missing.map(|put| source.files[put.file].len).sum()
    }
}

impl Volume {
    /// What is not there yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Put> {
        self.puts.iter().filter(|put| !put.present)
    }
}

/// Decides where the boot files go under this plan.
pub(super) fn place(disk: &dyn Disk, plan: &Plan, source: &Source) -> Result<Placement, Unfit> {
    let of = |wanted: Designator| {
        plan.partitions.iter().find(|partition| {
            partition.partition_type.designator() == wanted
                && partition.definition().is_some()
                && !partition.deferred
        })
    };
    let Some(esp) = of(Designator::Esp) else {
        return Err(Unfit::Definitions("no definition has Type=esp".to_owned()));
    };
    let mut esp = Draft::new(disk, esp)?;
    let mut other = of(Designator::Xbootldr)
        .map(|it| Draft::new(disk, it))
        .transpose()?;
    let menu = source
        .files
        .iter()
        .any(|file| file.kind == Kind::Menu && is_boot(&file.path))
        || esp.has_menu()?;
    let mut notes = Vec::new();
    for (index, file) in source.files.iter().enumerate() {
        let image = is_image(file);
        let mut path = file.path.clone();
        let target = match &mut other {
            Some(other) if image && (menu || !is_boot(&path)) => {
                if is_boot(&path) {
                    path = own_name(source);
                }
                other
            }
            _ => &mut esp,
        };
        target.add(index, path, source, &mut notes)?;
    }
    let mut placement = Placement {
        volumes: Vec::new(),
        notes,
    };
    for draft in [Some(esp), other].into_iter().flatten() {
        draft.fits(source)?;
        placement.volumes.push(draft.volume);
    }
    Ok(placement)
}

fn is_boot(path: &str) -> bool {
    path.to_ascii_lowercase().starts_with("efi/boot/")
}

/// A unified kernel image or an addon of one: what is large, and what systemd-boot finds in XBOOTLDR too.
fn is_image(file: &BootFile) -> bool {
    matches!(file.kind, Kind::Uki(_)) || file.path.to_ascii_lowercase().starts_with("efi/linux/")
}

/// A name for an image that has none of its own.
fn own_name(source: &Source) -> String {
    let label = source
        .parts
        .first()
        .map(|part| part.label.as_str())
        .unwrap_or_default();
    let clean: String = label
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let hash = uki::hex(&source.usrhash);
    let name = if clean.is_empty() { "image" } else { &clean };
    format!("EFI/Linux/{name}-{}.efi", &hash[..8])
}

/// A volume while it is decided what goes in.
struct Draft<'a> {
    disk: &'a dyn Disk,
    volume: Volume,
    /// Images that got another name, by the old one in lower case.
    renamed: BTreeMap<String, String>,
}

#[derive(PartialEq, Eq)]
enum There {
    Nothing,
    Same,
    Other,
}

impl<'a> Draft<'a> {
    fn new(disk: &'a dyn Disk, partition: &PlannedPartition) -> Result<Self, Unfit> {
        let volume = Volume {
            number: partition.number,
            label: partition.label.clone(),
            offset: partition.offset,
            size: partition.size,
            created: partition.is_created(),
            puts: Vec::new(),
        };
        let draft = Self {
            disk,
            volume,
            renamed: BTreeMap::new(),
        };
        if !draft.volume.created {
            draft.window()?;
        }
        Ok(draft)
    }

    fn refuse(&self) -> impl FnOnce(FatError) -> Unfit + use<> {
        let (number, label, size) = (
            self.volume.number,
            self.volume.label.clone(),
            self.volume.size,
        );
        move |source| Unfit::Volume {
            number,
            label,
            size,
            source,
        }
    }

    fn window(&self) -> Result<Window<'a>, Unfit> {
        Window::read(self.disk, self.volume.offset, self.volume.size).map_err(self.refuse())
    }

    /// systemd-boot is what the firmware starts from here.
    fn has_menu(&self) -> Result<bool, Unfit> {
        if self.volume.created {
            return Ok(false);
        }
        let system = FileSystem::new(self.window()?, options())
            .map_err(io("open the file system"))
            .map_err(self.refuse())?;
        let Ok(boot) = system.root_dir().open_dir("EFI/BOOT") else {
            return Ok(false);
        };
        for entry in boot.iter() {
            let entry = entry.map_err(io("list EFI/BOOT")).map_err(self.refuse())?;
            if entry.is_file()
                && uki::inspect(&mut entry.to_file())
                    .map_err(io("read EFI/BOOT"))
                    .map_err(self.refuse())?
                    == Kind::Menu
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn there(&self, path: &str, file: &BootFile) -> Result<There, Unfit> {
        let taken = self
            .volume
            .puts
            .iter()
            .any(|put| put.path.eq_ignore_ascii_case(path));
        if taken {
            return Ok(There::Other);
        }
        if self.volume.created {
            return Ok(There::Nothing);
        }
        let mut hasher = blake3::Hasher::new();
        let read = read_all(self.window()?, path, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        });
        match read {
            Ok(()) if hasher.finalize() == file.hash => Ok(There::Same),
            Ok(()) => Ok(There::Other),
            Err(FatError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(There::Nothing)
            }
            Err(error) => Err(self.refuse()(error)),
        }
    }

    fn add(
        &mut self,
        index: usize,
        path: String,
        source: &Source,
        notes: &mut Vec<String>,
    ) -> Result<(), Unfit> {
        let file = &source.files[index];
        let path = self.follow(path);
        match self.there(&path, file)? {
            There::Nothing => self.push(index, path, false),
            There::Same => self.push(index, path, true),
            There::Other if matches!(file.kind, Kind::Uki(_)) => {
                return self.add_renamed(index, &path, source, notes);
            }
            There::Other => notes.push(format!(
                "{path} on partition {} is another system's and is kept",
                self.volume.number
            )),
        }
        Ok(())
    }

    /// Addons go where their image went.
    fn follow(&self, path: String) -> String {
        let lower = path.to_ascii_lowercase();
        let moved = self.renamed.iter().find_map(|(old, new)| {
            let rest = lower.strip_prefix(old.as_str())?;
            rest.starts_with(".extra.d/")
                .then(|| format!("{new}{}", &path[old.len()..]))
        });
        moved.unwrap_or(path)
    }

    fn add_renamed(
        &mut self,
        index: usize,
        path: &str,
        source: &Source,
        notes: &mut Vec<String>,
    ) -> Result<(), Unfit> {
        let file = &source.files[index];
        let same = |put: &Put| source.files[put.file].hash == file.hash;
        if self.volume.puts.iter().any(same) {
            return Ok(());
        }
        let name = own_name(source);
        let present = match self.there(&name, file)? {
            There::Nothing => false,
            There::Same => true,
            There::Other => {
                return Err(Unfit::Definitions(format!(
                    "partition {} has files of others both as {path} and as {name}",
                    self.volume.number
                )));
            }
        };
        if is_boot(path) {
            notes.push(format!(
                "{path} on partition {} is another system's and is kept; ours is {name}: choose it in that boot menu, or add it to the firmware's with efibootmgr --create --part {} --loader '\\{}'",
                self.volume.number, self.volume.number, name.replace('/', "\\")
            ));
        }
        self.renamed.insert(path.to_ascii_lowercase(), name.clone());
        self.push(index, name, present);
        Ok(())
    }

    fn push(&mut self, file: usize, path: String, present: bool) {
        self.volume.puts.push(Put {
            file,
            path,
            present,
        });
    }

    /// Holds if there is room for all that is missing, directories included.
    fn fits(&self, source: &Source) -> Result<(), Unfit> {
        let sector = u64::from(self.disk.sector_size());
        let (cluster, free) = if self.volume.created {
            let cluster = cluster_size(self.volume.size, sector);
            // Each cluster has an entry of four bytes in either table.
            let clusters = self.volume.size.saturating_sub(16 * sector) / (cluster + 8);
            (cluster, clusters.saturating_sub(1))
        } else {
            let window = self.window()?;
            (window.geometry().cluster, window.free_clusters())
        };
        let mut dirs = BTreeSet::new();
        let mut clusters = 0;
        for put in self.volume.missing() {
            clusters += source.files[put.file].len.div_ceil(cluster);
            let ends = put.path.match_indices('/').map(|(at, _)| at);
            dirs.extend(ends.map(|at| put.path[..at].to_ascii_lowercase()));
        }
        // At most: a new directory takes one, and one that is there may need one more; so may the root.
        if clusters > 0 {
            clusters += u64::try_from(dirs.len()).unwrap_or(u64::MAX) + 1;
        }
        if clusters <= free {
            return Ok(());
        }
        Err(Unfit::Files {
            number: self.volume.number,
            label: self.volume.label.clone(),
            size: self.volume.size,
            free: free * cluster,
            need: clusters * cluster,
            files: self.volume.missing().count(),
        })
    }
}

/// Writes one file; it appears whole or not at all.
pub(super) fn put(
    disk: &mut dyn Disk,
    volume: &Volume,
    put: &Put,
    source: &Source,
    tell: &mut dyn FnMut(u64),
) -> Result<(), FatError> {
    let fail = || format!("write {}", put.path);
    let mut window = Window::write(disk, volume.offset, volume.size)?;
    let system = FileSystem::new(&mut window, options()).map_err(io(fail()))?;
    {
        let root = system.root_dir();
        for (at, _) in put.path.match_indices('/') {
            let dir = &put.path[..at];
            root.create_dir(dir).map_err(io(format!("create {dir}")))?;
        }
        let mut file = root.create_file(&put.path).map_err(io(fail()))?;
        source.read_file(&source.files[put.file], |bytes| {
            file.write_all(bytes).map_err(io(fail()))?;
            tell(u64::try_from(bytes.len()).unwrap_or(0));
            Ok(())
        })?;
        file.flush().map_err(io(fail()))?;
    }
    system.unmount().map_err(io(fail()))?;
    window.commit().map_err(io(fail()))
}

/// Reads a file back and compares it with its source.
pub(super) fn verify(
    disk: &dyn Disk,
    volume: &Volume,
    put: &Put,
    source: &Source,
    tell: &mut dyn FnMut(u64),
) -> Result<(), FatError> {
    let mut hasher = blake3::Hasher::new();
    let window = Window::read(disk, volume.offset, volume.size)?;
    read_all(window, &put.path, &mut |bytes| {
        hasher.update(bytes);
        tell(u64::try_from(bytes.len()).unwrap_or(0));
        Ok(())
    })?;
    let (found, wanted) = (hasher.finalize(), source.files[put.file].hash);
    if found == wanted {
        return Ok(());
    }
    Err(FatError::ReadBack {
        path: put.path.clone(),
        found: found.to_hex().to_string(),
        wanted: wanted.to_hex().to_string(),
    })
}
