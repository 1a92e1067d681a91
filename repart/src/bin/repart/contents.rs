//! Contents of new partitions of an image or disk, without loop devices: a file system is made in a sparse
//! temporary file of the partition's size and its data copied to its place.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use repart::definition::{CopyBlocks, Encrypt, Format};
use repart::format::{MkfsRequest, Programs, make};
use repart::{Contents, ContentsError, Definition, Disk, Plan, PlannedPartition};
use rustix::fs::{SeekFrom, seek};

use crate::host::below;

/// No mkfs takes longer on a disk of this world.
const DEADLINE: Duration = Duration::from_secs(600);
const BLOCK: usize = 1 << 20;

/// Direct writes into the disk.
pub(crate) struct DirectContents {
    pub(crate) root: Option<PathBuf>,
    pub(crate) programs: Programs,
    pub(crate) sector_size: u64,
    /// The disk is a file: what was discarded reads as zeroes.
    pub(crate) is_image: bool,
}

impl Contents for DirectContents {
    fn prepare(&mut self, partition: &PlannedPartition) -> Result<(), ContentsError> {
        let Some(definition) = partition.definition() else {
            return Ok(());
        };
        let content = &definition.content;
        let unsupported = [
            (content.encrypt != Encrypt::Off, "Encrypt="),
            (!content.copy_files.is_empty(), "CopyFiles="),
            (!content.make_directories.is_empty(), "MakeDirectories="),
            (!content.make_symlinks.is_empty(), "MakeSymlinks="),
            (!content.subvolumes.is_empty(), "Subvolumes="),
            (
                content.copy_blocks == Some(CopyBlocks::Auto),
                "CopyBlocks=auto",
            ),
            (definition.own.integrity.is_some(), "X-Integrity="),
        ];
        if let Some((_, key)) = unsupported.iter().find(|(used, _)| *used) {
            return Err(format!(
                "{}: {key} is not supported by this program",
                definition.path.display()
            )
            .into());
        }
        if let Some(format) = &content.format {
            self.programs.require(format)?;
        }
        Ok(())
    }

    fn make(
        &mut self,
        disk: &mut dyn Disk,
        partition: &PlannedPartition,
    ) -> Result<(), ContentsError> {
        let Some(definition) = partition.definition() else {
            return Ok(());
        };
        if let Some(CopyBlocks::Path(path)) = &definition.content.copy_blocks {
            let source = File::open(below(self.root.as_deref(), &path.to_string_lossy()))?;
            copy_data(
                &source,
                definition.content.copy_blocks_size.unwrap_or(0),
                disk,
                partition,
                false,
            )?;
        } else if let Some(format) = definition
            .content
            .format
            .as_ref()
            .filter(|format| **format != Format::Empty)
        {
            self.make_file_system(disk, partition, definition, format)?;
        }
        Ok(())
    }

    fn published(&mut self, _: &Plan) -> Result<(), ContentsError> {
        Ok(())
    }
}

impl DirectContents {
    fn make_file_system(
        &self,
        disk: &mut dyn Disk,
        partition: &PlannedPartition,
        definition: &Definition,
        format: &Format,
    ) -> Result<(), ContentsError> {
        let temporary = Temporary::new(partition.size)?;
        let sector_size = definition
            .content
            .file_system_sector_size
            .unwrap_or(self.sector_size);
        let request = MkfsRequest {
            format,
            device: &temporary.path,
            label: &partition.label,
            uuid: partition.fs_uuid,
            sector_size,
            discard: false,
            tree: None,
        };
        make(&request, &self.programs, DEADLINE)?;
        copy_data(
            &temporary.file,
            partition.size,
            disk,
            partition,
            self.is_image,
        )?;
        Ok(())
    }
}

/// A sparse file that is gone when this is.
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    fn new(len: u64) -> io::Result<Self> {
        let dir =
            std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let name = format!("repart-{}", crate::host::random()?);
        let path = dir.join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        let temporary = Self { file, path };
        temporary.file.set_len(len)?;
        Ok(temporary)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            drop(writeln!(
                io::stderr(),
                "repart: cannot remove {}: {error}",
                self.path.display()
            ));
        }
    }
}

/// Copies `len` bytes to the start of the partition. Holes are skipped where the target reads as zeroes already.
fn copy_data(
    source: &File,
    len: u64,
    disk: &mut dyn Disk,
    partition: &PlannedPartition,
    target_is_zero: bool,
) -> io::Result<()> {
    let zeroed = target_is_zero && disk.discard(partition.offset, partition.size).is_ok();
    let mut buffer = vec![0; BLOCK];
    let mut at = 0;
    while at < len {
        if zeroed {
            match seek(source, SeekFrom::Data(at)) {
                Ok(next) => at = next,
                Err(rustix::io::Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let step = usize::try_from(len.saturating_sub(at)).map_or(BLOCK, |left| left.min(BLOCK));
        source.read_exact_at(&mut buffer[..step], at)?;
        if !(zeroed && buffer[..step].iter().all(|byte| *byte == 0)) {
            disk.write_at(partition.offset + at, &buffer[..step])?;
        }
        at += u64::try_from(step).unwrap_or(len);
    }
    Ok(())
}

/// The directory a relative path of the command line means.
pub(crate) fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path)
}
