//! What goes into new partitions on a first boot: LUKS2 sealed to the TPM, and a file system.
//!
//! Invariant: [`Contents::prepare`] asks for everything that could be missing (program, TPM, seal and unseal) before
//! [`Contents::make`] writes the first byte. The kernel learns of a new partition before the table does, so that its
//! contents are made through a device node, and stays with what it knows when the table follows.

use crate::agent::Agent;
use crate::failure::Remedy;
use crate::stages::devices::BootDisk;
use crate::stages::usr::record_mapping;
use crate::volumes::{Role, Volume};
use repart::definition::{Encrypt, Format};
use repart::format::{FormatError, MkfsRequest, Programs};
use repart::{Activity, Contents, ContentsError, Disk, Plan, PlannedPartition};
use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use unlock::luks::{self, FormatRequest, LuksError, SealedKey};
use unlock::tpm::TpmError;

/// How long a mkfs program may take.
const MKFS_DEADLINE: Duration = Duration::from_secs(300);
/// How long the kernel may take to make a device node.
const NODE_DEADLINE: Duration = Duration::from_secs(10);

/// Why contents cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FirstContentsError {
    /// Encryption is asked for and there is no TPM.
    #[error("Encrypt=tpm2 needs a TPM2, and this machine shows none")]
    NoTpm,
    /// A key this version cannot honour.
    #[error("{0} is not supported by this version on a first boot")]
    Unsupported(&'static str),
    /// The kernel did not take the partition.
    #[error("the kernel did not take partition {number}")]
    Node {
        /// Its number.
        number: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TPM refused.
    #[error("the key of {name} could not be sealed")]
    Seal {
        /// Name of the volume.
        name: String,
        /// Why.
        #[source]
        source: TpmError,
    },
    /// The volume could not be made.
    #[error("the encrypted volume {name} could not be made")]
    Create {
        /// Name of the volume.
        name: String,
        /// Why.
        #[source]
        source: Box<LuksError>,
    },
    /// The file system could not be made.
    #[error("the file system could not be made")]
    Format(#[from] FormatError),
}

/// Code and remedy of a failure, for the card.
#[must_use]
pub fn classify(error: &(dyn Error + 'static)) -> (&'static str, Remedy) {
    use FirstContentsError as E;
    match error.downcast_ref::<E>() {
        Some(E::NoTpm) => ("tpm-missing", Remedy::EnableTpm),
        Some(E::Unsupported(_)) => ("definition-unsupported", Remedy::FixImage),
        Some(E::Seal { .. }) => ("tpm-seal-failed", Remedy::RestoreTpm),
        Some(E::Format(FormatError::Missing { .. } | FormatError::Unsupported(_))) => {
            ("mkfs-missing", Remedy::FixImage)
        }
        Some(E::Node { .. } | E::Create { .. } | E::Format(_)) | None => {
            ("contents-failed", Remedy::TryAgain)
        }
    }
}

/// Makes contents with the machine's TPM and the initrd's mkfs programs.
pub struct FirstContents<'a> {
    agent: &'a mut Agent,
    boot: &'a mut BootDisk,
    programs: Programs,
    keys: BTreeMap<u32, SealedKey>,
    volumes: Vec<Volume>,
}

impl<'a> FirstContents<'a> {
    /// Nothing made so far.
    pub fn new(agent: &'a mut Agent, boot: &'a mut BootDisk) -> Self {
        Self {
            agent,
            boot,
            programs: Programs::default(),
            keys: BTreeMap::new(),
            volumes: Vec::new(),
        }
    }

    /// The volumes that were made, open.
    #[must_use]
    pub fn into_volumes(self) -> Vec<Volume> {
        self.volumes
    }

    /// Gives the partition to the kernel and returns its node.
    fn node(&mut self, partition: &PlannedPartition) -> Result<PathBuf, FirstContentsError> {
        let number = partition.number;
        let failed = |source: io::Error| FirstContentsError::Node { number, source };
        let disk = &self.boot.disk;
        if disk.partition(number).is_none() {
            let file = disk.open(false).map_err(|e| failed(io::Error::other(e)))?;
            sys::block::add_partition(file.as_fd(), number, partition.offset, partition.size)
                .map_err(failed)?;
        }
        let deadline = Instant::now() + NODE_DEADLINE;
        let ready = || {
            disk.partition(number)
                .filter(crate::devices::Partition::is_ready)
        };
        let found = self
            .boot
            .devices
            .wait_for("the new partition's node", deadline, |_| ready());
        let found = found.map_err(|e| failed(io::Error::other(e)))?;
        // What is written through the node must land where the plan was checked for.
        if (found.offset, found.size) != (partition.offset, partition.size) {
            let text = format!(
                "the kernel has partition {number} at {} with {} bytes, the plan at {} with {}",
                found.offset, found.size, partition.offset, partition.size
            );
            return Err(failed(io::Error::other(text)));
        }
        Ok(found.node)
    }

    /// Makes and opens the encrypted volume; returns the node to put the file system on.
    fn encrypt(
        &mut self,
        node: &Path,
        partition: &PlannedPartition,
    ) -> Result<PathBuf, FirstContentsError> {
        let name = volume_name(partition);
        let key = self.keys.remove(&partition.number);
        let (Some(trust), Some(key)) = (&mut self.boot.trust, key) else {
            return Err(FirstContentsError::NoTpm);
        };
        // systemd-repart 259 and later prefix the label, so that /dev/disk/by-label tells container and content apart.
        let label = partition
            .definition()
            .and_then(|definition| definition.content.volume_label.clone())
            .unwrap_or_else(|| format!("luks-{}", partition.label));
        let request = FormatRequest {
            device: node,
            uuid: *partition.luks_uuid.bytes(),
            label: Some(&label),
            sector_size: 4096,
            discard: false,
        };
        let created = self
            .agent
            .step(format!("make encrypted volume {name}"), |_| {
                luks::create(&request, &name, key, &mut trust.tpm, &trust.log)
            });
        let mapping = created.map_err(|source| FirstContentsError::Create {
            name,
            source: Box::new(source),
        })?;
        record_mapping(self.agent, &mapping);
        Ok(mapping.path)
    }
}

/// The device-mapper name: that of the role, or the label of a partition without one.
fn volume_name(partition: &PlannedPartition) -> String {
    let role = role(partition);
    role.map_or_else(
        || format!("luks-{}", partition.uuid),
        |role| role.name().to_owned(),
    )
}

fn role(partition: &PlannedPartition) -> Option<Role> {
    partition
        .partition_type
        .name()
        .as_deref()
        .and_then(Role::of_type)
}

/// Keys of a definition that change what a volume is, and that this version does not honour: refused, not ignored.
fn unsupported(partition: &PlannedPartition) -> Option<&'static str> {
    let definition = partition.definition()?;
    let content = &definition.content;
    let checks = [
        (
            matches!(content.encrypt, Encrypt::KeyFile | Encrypt::KeyFileTpm2),
            "Encrypt=key-file",
        ),
        (content.copy_blocks.is_some(), "CopyBlocks="),
        (!content.copy_files.is_empty(), "CopyFiles="),
        (!content.make_directories.is_empty(), "MakeDirectories="),
        (!content.make_symlinks.is_empty(), "MakeSymlinks="),
        (!content.subvolumes.is_empty(), "Subvolumes="),
        (definition.own.integrity.is_some(), "X-Integrity="),
    ];
    checks
        .into_iter()
        .find_map(|(present, key)| present.then_some(key))
}

impl Contents for FirstContents<'_> {
    fn prepare(&mut self, partition: &PlannedPartition) -> Result<(), ContentsError> {
        if let Some(key) = unsupported(partition) {
            return Err(FirstContentsError::Unsupported(key).into());
        }
        let Some(definition) = partition.definition() else {
            return Ok(());
        };
        if let Some(format) = &definition.content.format {
            self.programs
                .require(format)
                .map_err(FirstContentsError::from)?;
        }
        if definition.content.encrypt == Encrypt::Tpm2 {
            self.boot.load_cipher(self.agent);
            let name = volume_name(partition);
            let Some(trust) = &mut self.boot.trust else {
                return Err(FirstContentsError::NoTpm.into());
            };
            let sealed = self.agent.step(format!("seal the key of {name}"), |_| {
                SealedKey::new(&mut trust.tpm, &trust.policy, trust.signatures.as_ref())
            });
            self.keys.insert(
                partition.number,
                sealed.map_err(|source| FirstContentsError::Seal { name, source })?,
            );
        }
        Ok(())
    }

    fn make(
        &mut self,
        _disk: &mut dyn Disk,
        partition: &PlannedPartition,
    ) -> Result<(), ContentsError> {
        let Some(definition) = partition.definition() else {
            return Ok(());
        };
        if !definition.content.is_any() {
            return Ok(());
        }
        let mut node = self.node(partition)?;
        if definition.content.encrypt == Encrypt::Tpm2 {
            node = self.encrypt(&node, partition)?;
        }
        if let Some(format) = definition
            .content
            .format
            .as_ref()
            .filter(|format| **format != Format::Empty)
        {
            let request = MkfsRequest {
                format,
                device: &node,
                label: &partition.label,
                uuid: partition.fs_uuid,
                sector_size: 4096,
                discard: false,
                tree: None,
            };
            let programs = &self.programs;
            let name = format!("mkfs.{} on {}", format.name(), node.display());
            self.agent
                .step(name, |_| {
                    repart::format::make(&request, programs, MKFS_DEADLINE)
                })
                .map_err(FirstContentsError::from)?;
        }
        if let Some(role) = role(partition) {
            self.volumes.push(Volume {
                role,
                number: partition.number,
                node,
                created: true,
                read_only: false,
                grow: false,
            });
        }
        Ok(())
    }

    fn published(&mut self, plan: &Plan) -> Result<(), ContentsError> {
        let disk = self.boot.disk.open(false)?;
        for partition in &plan.partitions {
            let number = partition.number;
            let known = self.boot.disk.partition(number);
            let told = match (partition.activity, known) {
                (Activity::Grown, Some(_)) => sys::block::resize_partition(
                    disk.as_fd(),
                    number,
                    partition.offset,
                    partition.size,
                ),
                (Activity::Created, None) => sys::block::add_partition(
                    disk.as_fd(),
                    number,
                    partition.offset,
                    partition.size,
                ),
                _ => Ok(()),
            };
            told.map_err(|source| FirstContentsError::Node { number, source })?;
        }
        Ok(())
    }
}
