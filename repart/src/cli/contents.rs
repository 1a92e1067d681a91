//! Contents of new partitions of an image or disk, without loop devices: a file system is made and filled in a sparse
//! temporary file of the partition's size, encrypted if asked for, and its data copied to its place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{SeekFrom, seek};

use super::encryption::{EncryptRequest, Encryption, KeyOptions};
use super::host::Blocks;
use super::kernel;
use super::temporary::Temporary;
use crate::apply::{Contents, ContentsError};
use crate::definition::{Content, Definition, Encrypt, Format, Subvolume};
use crate::disk::Disk;
use crate::format::{Extra, MkfsRequest, Programs, make_with};
use crate::plan::{Plan, PlannedPartition};
use crate::populate::{self, TreeRequest};

/// No mkfs takes longer on a disk of this world.
const DEADLINE: Duration = Duration::from_secs(1800);
const BLOCK: usize = 1 << 20;

/// Direct writes into the disk.
pub(super) struct DirectContents<'a> {
    /// Below which `CopyFiles=` sources are.
    pub(super) sources: PathBuf,
    /// Where the `CopyBlocks=` of each definition comes from.
    pub(super) blocks: BTreeMap<PathBuf, Blocks>,
    pub(super) programs: Programs,
    pub(super) sector_size: u64,
    /// The disk is a file: what was discarded reads as zeroes.
    pub(super) is_image: bool,
    pub(super) discard: bool,
    /// Mount points of the other partitions.
    pub(super) elsewhere: Vec<PathBuf>,
    /// `SOURCE_DATE_EPOCH`.
    pub(super) epoch: Option<i64>,
    pub(super) keys: KeyOptions,
    /// A volume whose key was forgotten is refused instead of getting the empty passphrase.
    pub(super) own_rules: bool,
    pub(super) encryption: Option<&'a mut dyn Encryption>,
    /// To tell the kernel; none for an image file.
    pub(super) device: Option<File>,
}

impl Contents for DirectContents<'_> {
    fn prepare(&mut self, partition: &PlannedPartition) -> Result<(), ContentsError> {
        let Some(definition) = partition.definition() else {
            return Ok(());
        };
        let content = &definition.content;
        if definition.own.integrity.is_some() {
            return Err(refusal(definition, "X-Integrity= needs a running initrd"));
        }
        if let Some(format) = &content.format {
            self.programs.require(format)?;
            self.require_options(definition, format)?;
        }
        if content.encrypt == Encrypt::Off {
            return Ok(());
        }
        let no_key = matches!(content.encrypt, Encrypt::KeyFile | Encrypt::KeyFileTpm2)
            && content.key_file.is_none()
            && self.keys.key_file.is_none();
        if no_key && self.own_rules {
            return Err(refusal(
                definition,
                "Encrypt=key-file needs KeyFile= or --key-file=",
            ));
        } else if no_key {
            self.note(
                definition,
                "no key file: everybody can open it, with the empty passphrase",
            );
        }
        let place = Temporary::new()?;
        let request = EncryptRequest {
            partition,
            definition,
            options: &self.keys,
            sector_size: luks_sector(partition, &definition.content),
            discard: content.discard.unwrap_or(self.discard),
            directory: place.path(),
        };
        match &mut self.encryption {
            Some(encryption) => encryption.prepare(&request),
            None => Err(refusal(
                definition,
                "Encrypt= is not built into this program",
            )),
        }
    }

    fn make(
        &mut self,
        disk: &mut dyn Disk,
        partition: &PlannedPartition,
    ) -> Result<(), ContentsError> {
        let Some(definition) = partition.definition() else {
            return Ok(());
        };
        if !definition.content.is_any() {
            return Ok(());
        }
        let place = Temporary::new()?;
        let header = match (&self.encryption, definition.content.encrypt) {
            (Some(encryption), mode) if mode != Encrypt::Off => encryption.header_size(),
            _ => 0,
        };
        let room = partition.size.saturating_sub(header);
        let (plain, start, len) = match self.blocks.get(&definition.path) {
            Some(source) => {
                // A character device gives as much as there is room for.
                let len = definition.content.copy_blocks_size.unwrap_or(room);
                if len > room {
                    let text = format!("CopyBlocks= gives {len} bytes, there is room for {room}");
                    return Err(refusal(definition, &text));
                }
                (source.file.try_clone()?, source.offset, len)
            }
            None => (
                self.file_system(&place, partition, definition, room)?,
                0,
                room,
            ),
        };
        if definition.content.encrypt == Encrypt::Off {
            let from_mkfs = definition.content.copy_blocks.is_none();
            return Ok(copy_data(
                &plain,
                start..start + len,
                disk,
                partition,
                self.is_image && from_mkfs,
            )?);
        }
        let request = EncryptRequest {
            partition,
            definition,
            options: &self.keys,
            sector_size: luks_sector(partition, &definition.content),
            discard: definition.content.discard.unwrap_or(self.discard),
            directory: place.path(),
        };
        match &mut self.encryption {
            Some(encryption) => encryption.encrypt(&request, &plain, start..start + len, disk),
            None => Err(refusal(
                definition,
                "Encrypt= is not built into this program",
            )),
        }
    }

    fn published(&mut self, plan: &Plan) -> Result<(), ContentsError> {
        match &self.device {
            Some(device) => kernel::tell(device, plan),
            None => Ok(()),
        }
    }
}

fn refusal(definition: &Definition, text: &str) -> ContentsError {
    format!("{}: {text}", definition.path.display()).into()
}

impl DirectContents<'_> {
    /// Options not every version of a mkfs program has, asked for before anything is written.
    fn require_options(
        &self,
        definition: &Definition,
        format: &Format,
    ) -> Result<(), ContentsError> {
        let content = &definition.content;
        if content.subvolumes.is_empty() {
            return Ok(());
        }
        if *format != Format::Btrfs {
            return Err(refusal(definition, "Subvolumes= needs Format=btrfs"));
        }
        let mut wanted = vec!["--subvol"];
        if content.subvolumes.iter().any(|sub| sub.no_data_cow) {
            wanted.push("--inode-flags");
        }
        for option in wanted {
            if !self.programs.offers("mkfs.btrfs", option)? {
                let text = format!("mkfs.btrfs has no {option}, which Subvolumes= needs");
                return Err(refusal(definition, &text));
            }
        }
        Ok(())
    }

    /// Makes and fills the file system in a file of `len` bytes.
    fn file_system(
        &self,
        place: &Temporary,
        partition: &PlannedPartition,
        definition: &Definition,
        len: u64,
    ) -> Result<File, ContentsError> {
        let (file, device) = place.file("image", len)?;
        let content = &definition.content;
        let Some(format) = content
            .format
            .as_ref()
            .filter(|format| **format != Format::Empty)
        else {
            return Ok(file);
        };
        let tree = self.tree(place, partition, definition, format)?;
        let mut extra = Extra {
            extended: None,
            options: Vec::new(),
            trailing: own_options(format),
            environment: self.environment(),
        };
        let mut taken = None;
        match (&tree, format) {
            (Some(tree), Format::Xfs) => extra.options = xfs_options(place, tree)?,
            (Some(tree), Format::Btrfs) => {
                extra.options = subvolume_options(content);
                taken = Some(tree.as_path());
            }
            (Some(tree), Format::Ext4) => {
                extra.extended = Some(root_owner(tree)?);

                if tree.metadata()?.permissions().mode() & 0o7777 != 0o755 {
                    self.note(
                        definition,
                        "mkfs.ext4 gives / the mode 0755, not that of the source",
                    );
                }
                taken = Some(tree.as_path());
            }
            _ => {}
        }
        let request = MkfsRequest {
            format,
            device: &device,
            label: &partition.label,
            uuid: partition.fs_uuid,
            sector_size: self.file_system_sector(partition, content),
            discard: false,
            tree: taken,
        };
        make_with(&request, &extra, &self.programs, DEADLINE)?;
        if *format == Format::Vfat {
            for note in populate::fill_vfat(tree.as_deref(), &file, self.epoch)? {
                self.note(definition, &note);
            }
        }
        Ok(file)
    }

    /// A file system cannot have smaller sectors than the volume it is on.
    fn file_system_sector(&self, partition: &PlannedPartition, content: &Content) -> u64 {
        let own = content.file_system_sector_size.unwrap_or(self.sector_size);
        match content.encrypt {
            Encrypt::Off => own,
            _ => own.max(luks_sector(partition, content).into()),
        }
    }

    /// The tree to fill it from, if there is anything in it.
    fn tree(
        &self,
        place: &Temporary,
        partition: &PlannedPartition,
        definition: &Definition,
        format: &Format,
    ) -> Result<Option<PathBuf>, ContentsError> {
        if *format == Format::Swap {
            return Ok(None);
        }
        let target = place.directory("tree")?;
        let request = TreeRequest {
            partition,
            definition,
            sources: &self.sources,
            elsewhere: &self.elsewhere,
            epoch: self.epoch,
        };
        let tree = populate::build(&request, &target)?;
        for note in &tree.notes {
            self.note(definition, note);
        }
        Ok((!tree.is_empty).then_some(target))
    }

    #[expect(clippy::unused_self, reason = "reads as what it is")]
    fn note(&self, definition: &Definition, text: &str) {
        super::say(&format!("repart: {}: {text}", definition.path.display()));
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        self.epoch
            .map(|epoch| {
                ["SOURCE_DATE_EPOCH", "E2FSPROGS_FAKE_TIME"]
                    .map(|name| (name, epoch.to_string()))
                    .to_vec()
            })
            .unwrap_or_default()
    }
}

/// 4096 where the partition allows it: an eighth of the work for the cipher's set-up, on every disk.
fn luks_sector(partition: &PlannedPartition, content: &Content) -> u32 {
    let fits = partition.offset.is_multiple_of(4096) && partition.size.is_multiple_of(4096);
    let default = if fits { 4096 } else { 512 };
    content
        .file_system_sector_size
        .and_then(|size| u32::try_from(size).ok())
        .unwrap_or(default)
}

/// `$SYSTEMD_REPART_MKFS_OPTIONS_<FSTYPE>`, as systemd-repart takes it.
fn own_options(format: &Format) -> Vec<OsString> {
    let name = format!(
        "SYSTEMD_REPART_MKFS_OPTIONS_{}",
        format.name().to_ascii_uppercase()
    );
    std::env::var(name)
        .map(|words| words.split_whitespace().map(OsString::from).collect())
        .unwrap_or_default()
}

/// mke2fs takes the tree, but not its top's owner.
fn root_owner(tree: &Path) -> io::Result<String> {
    use std::os::unix::fs::MetadataExt as _;
    let top = tree.metadata()?;
    let owner = if rustix::process::geteuid().is_root() {
        (top.uid(), top.gid())
    } else {
        (0, 0)
    };
    Ok(format!("root_owner={}:{}", owner.0, owner.1))
}

/// A path without its leading slash: how mkfs.btrfs names what is in the tree.
fn relative(path: &Path) -> String {
    path.strip_prefix("/")
        .unwrap_or(path)
        .to_string_lossy()
        .into_owned()
}

fn subvolume_options(content: &Content) -> Vec<OsString> {
    let mut options: Vec<OsString> = Vec::new();
    for Subvolume {
        path,
        read_only,
        no_data_cow,
    } in &content.subvolumes
    {
        let default = content.default_subvolume.as_ref() == Some(path);
        let kind = match (default, read_only) {
            (false, false) => "rw",
            (false, true) => "ro",
            (true, false) => "default",
            (true, true) => "default-ro",
        };
        options.push("--subvol".into());
        options.push(format!("{kind}:{}", relative(path)).into());
        if *no_data_cow {
            options.push("--inode-flags".into());
            options.push(format!("nodatacow:{}", relative(path)).into());
        }
    }
    options
}

fn xfs_options(place: &Temporary, tree: &Path) -> Result<Vec<OsString>, ContentsError> {
    let links = place.directory("files")?;
    let proto = place.path().join("proto");
    let spaces = populate::write_proto(tree, &links, &proto)?;
    let file = proto.display();
    let value = if spaces {
        format!("slashes_are_spaces=1,file={file}")
    } else {
        file.to_string()
    };
    Ok(vec!["-p".into(), value.into()])
}

/// Copies a range to the start of the partition. Holes are skipped where the target reads as zeroes already.
fn copy_data(
    source: &File,
    range: Range<u64>,
    disk: &mut dyn Disk,
    partition: &PlannedPartition,
    target_is_zero: bool,
) -> io::Result<()> {
    let zeroed = target_is_zero && disk.discard(partition.offset, partition.size).is_ok();
    let mut buffer = vec![0; BLOCK];
    let mut at = range.start;
    while at < range.end {
        if zeroed {
            match seek(source, SeekFrom::Data(at)) {
                Ok(next) => at = next,
                Err(rustix::io::Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let left = range.end.saturating_sub(at);
        let step = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        source.read_exact_at(&mut buffer[..step], at)?;
        if !(zeroed && buffer[..step].iter().all(|byte| *byte == 0)) {
            disk.write_at(partition.offset + (at - range.start), &buffer[..step])?;
        }
        at += u64::try_from(step).unwrap_or(left);
    }
    Ok(())
}

/// The directory a relative path of the command line means.
pub(super) fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path)
}
