//! What the running system answers: roots, seed, specifiers, CopyBlocks sources, programs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::definition::CopyBlocks;
use crate::gpt::{TableState, observe};
use crate::types::PartitionType;
use crate::{Architecture, BlockDevice, Definitions, Disk as _, Guid, Specifiers};

/// Below the root, `/` where there is none.
pub(super) fn below(root: Option<&Path>, path: &str) -> PathBuf {
    match root {
        Some(root) => root.join(path.trim_start_matches('/')),
        None => PathBuf::from(path),
    }
}

/// Default directories, highest first.
pub(super) fn definition_dirs(root: Option<&Path>) -> Vec<PathBuf> {
    [
        "/etc/repart.d",
        "/run/repart.d",
        "/usr/local/lib/repart.d",
        "/usr/lib/repart.d",
    ]
    .map(|dir| below(root, dir))
    .to_vec()
}

/// Reads a small file that may be absent.
fn optional(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The machine ID below the root; `None` if there is none yet.
pub(super) fn machine_id(root: Option<&Path>) -> io::Result<Option<Guid>> {
    let path = below(root, "/etc/machine-id");
    let Some(text) = optional(&path)? else {
        return Ok(None);
    };
    match text.trim() {
        "" | "uninitialized" => Ok(None),
        id => Guid::parse(id)
            .filter(|_| id.len() == 32)
            .map(Some)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} holds no machine ID", path.display()),
                )
            }),
    }
}

/// 16 random bytes.
pub(super) fn random() -> io::Result<Guid> {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    if got == bytes.len() {
        Ok(Guid::from_bytes(bytes))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Values of all specifiers.
pub(super) fn specifiers(
    root: Option<&Path>,
    architecture: Architecture,
) -> io::Result<Specifiers> {
    let mut specifiers = Specifiers::default();
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(text) = optional(&below(root, path))? {
            specifiers.set_os_release(&text);
            break;
        }
    }
    if let Some(id) = machine_id(root)? {
        specifiers.set('m', id.to_string().replace('-', ""));
    }
    if let Some(id) = optional(Path::new("/proc/sys/kernel/random/boot_id"))? {
        specifiers.set('b', id.trim().replace('-', ""));
    }
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().into_owned();
    specifiers.set('l', host.split('.').next().unwrap_or_default());
    specifiers.set('q', host.clone());
    specifiers.set('H', host);
    specifiers.set('v', uname.release().to_string_lossy());
    specifiers.set('a', architecture.name());
    specifiers.set('T', "/tmp");
    specifiers.set('V', "/var/tmp");
    Ok(specifiers)
}

/// The root without `--root=`: in an initrd the system to be booted (spec 6.4).
pub(super) fn implicit_root() -> PathBuf {
    if !Path::new("/etc/initrd-release").exists() {
        return PathBuf::from("/");
    }
    let is_mount = |path: &Path, parent: &Path| {
        let number = |path: &Path| path.metadata().map(|metadata| metadata.dev()).ok();
        number(path).is_some() && number(path) != number(parent)
    };
    if is_mount(Path::new("/sysusr/usr"), Path::new("/sysusr")) {
        PathBuf::from("/sysusr")
    } else {
        PathBuf::from("/sysroot")
    }
}

/// Opens each `CopyBlocks=` source, by the definition's path, and fills in how much it gives.
pub(super) fn open_sources(
    definitions: &mut Definitions,
    sources: &Sources<'_>,
) -> io::Result<BTreeMap<PathBuf, Blocks>> {
    let mut all = BTreeMap::new();
    for definition in &mut definitions.list {
        let kind = definition.partition_type;
        let (found, shown) = match &definition.content.copy_blocks {
            None => continue,
            Some(CopyBlocks::Path(path)) => (sources.open(path), path.clone()),
            Some(CopyBlocks::Auto) => (sources.auto(kind), PathBuf::from("CopyBlocks=auto")),
        };
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", shown.display()))
        };
        let found = found.map_err(named)?;
        definition.content.copy_blocks_uuid = found.uuid;
        definition.content.copy_blocks_size = match found.size {
            Some(size) => Some(size),
            None => size_of(&found.blocks.file).map_err(named)?,
        };
        all.insert(definition.path.clone(), found.blocks);
    }
    Ok(all)
}

/// Bytes a source gives; `None` where it never ends.
fn size_of(file: &File) -> io::Result<Option<u64>> {
    let metadata = file.metadata()?;
    let len = if metadata.file_type().is_char_device() {
        return Ok(None);
    } else if metadata.file_type().is_block_device() {
        sys::block::size(file.as_fd())?
    } else {
        metadata.len()
    };
    if len == 0 || len % 512 != 0 {
        let text = format!("{len} bytes, not a positive multiple of 512");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Some(len))
}

/// Where `CopyBlocks=` looks.
pub(super) struct Sources<'a> {
    /// Below which paths are resolved.
    pub(super) root: &'a Path,
    /// The user named the root, so that the running system's partitions are not meant.
    pub(super) explicit: bool,
    /// `--image=`: `auto` means its partitions.
    pub(super) image: Option<&'a Path>,
}

/// A stretch of a file or device.
pub(super) struct Blocks {
    pub(super) file: File,
    /// Bytes from the start of `file`.
    pub(super) offset: u64,
}

struct Found {
    blocks: Blocks,
    /// If it is not all of the file.
    size: Option<u64>,
    uuid: Option<Guid>,
}

impl Found {
    fn all_of(file: File, uuid: Option<Guid>) -> Self {
        Self {
            blocks: Blocks { file, offset: 0 },
            size: None,
            uuid,
        }
    }
}

impl Sources<'_> {
    fn open(&self, path: &Path) -> io::Result<Found> {
        let root = File::open(self.root)?;
        let file = File::from(crate::populate::resolve(&root, path, OFlags::RDONLY)?);
        if !file.metadata()?.is_dir() {
            return Ok(Found::all_of(file, None));
        }
        match super::backing::behind_directory(&file)? {
            Some(node) => Ok(Found::all_of(File::open(node)?, None)),
            None => Err(io::Error::other("no block device is behind this directory")),
        }
    }

    fn auto(&self, kind: PartitionType) -> io::Result<Found> {
        if let Some(image) = self.image {
            return in_image(image, kind);
        }
        if self.explicit {
            let text = "it copies the running system, which --root= excludes";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let (node, uuid) = super::backing::auto_source(kind)?;
        Ok(Found::all_of(File::open(node)?, Some(uuid)))
    }
}

/// The one partition of this type in an image file.
fn in_image(image: &Path, kind: PartitionType) -> io::Result<Found> {
    let disk = BlockDevice::open(image, false, None)?;
    let snapshot = observe(&disk).map_err(io::Error::other)?;
    let entries: Vec<_> = match &snapshot.table {
        TableState::Gpt(gpt) => gpt
            .table
            .used()
            .filter(|entry| entry.partition_type == kind)
            .collect(),
        _ => Vec::new(),
    };
    let [entry] = entries.as_slice() else {
        let text = format!(
            "{} has {} partitions of type {}, not one",
            image.display(),
            entries.len(),
            kind.name_or_uuid()
        );
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    };
    let sector = u64::from(disk.sector_size());
    let sectors = (entry.last_lba - entry.first_lba).saturating_add(1);
    Ok(Found {
        size: Some(sectors.saturating_mul(sector)),
        uuid: Some(entry.guid),
        blocks: Blocks {
            offset: entry.first_lba.saturating_mul(sector),
            file: disk.file().try_clone()?,
        },
    })
}

/// `SOURCE_DATE_EPOCH` in seconds.
pub(super) fn epoch() -> Option<i64> {
    std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()
}

/// Where mkfs programs are: `$PATH`, then the places of the system.
pub(super) fn programs() -> crate::format::Programs {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .collect();
    dirs.extend(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    crate::format::Programs::new(dirs)
}
