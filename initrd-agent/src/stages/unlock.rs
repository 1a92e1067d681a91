//! `unlock`: the volumes that were there before this boot.
//!
//! Invariant: a partition that its definition calls encrypted is opened as such or the boot ends; a plain file system
//! in its place would be somebody else's.

use crate::agent::{Agent, Outcome};
use crate::failure::{Failure, Remedy, Stage};
use crate::stages::devices::BootDisk;
use crate::stages::repart::Partitioned;
use crate::stages::usr::record_mapping;
use crate::volumes::{Role, Volume};
use repart::definition::Encrypt;
use repart::{Activity, Plan, PlannedPartition};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use unlock::luks::{self, LuksError};
use unlock::tpm::TpmError;

/// GPT attributes of the Discoverable Partitions Specification.
const NO_AUTO: u64 = 1 << 63;
const READ_ONLY: u64 = 1 << 60;
const GROW: u64 = 1 << 59;

/// A machine whose volumes are open.
#[derive(Debug)]
pub struct Unlocked {
    /// From earlier stages.
    pub boot: BootDisk,
    /// `/usr`, mounted.
    pub usr: OwnedFd,
    /// All volumes with a role.
    pub volumes: Vec<Volume>,
}

impl Partitioned {
    /// Opens what this boot did not make.
    ///
    /// # Errors
    /// A volume that is missing, not what its definition says, or whose key the TPM keeps.
    pub fn unlock(self, agent: &mut Agent) -> Result<Unlocked, Failure> {
        agent.stage(Stage::Unlock, |agent| {
            let Self {
                mut boot,
                usr,
                plan,
                created,
            } = self;
            let first = created.iter().any(|volume| volume.role == Role::Root);
            agent.report.boot = if first { "first" } else { "normal" };
            let mut volumes = created;
            let mut outcome = Outcome::Unchanged;
            for (role, partition) in chosen(agent, &plan, &volumes) {
                volumes.push(open(agent, &mut boot, partition, role)?);
                outcome = Outcome::Done;
            }
            file_volumes(agent, &volumes);
            Ok((Unlocked { boot, usr, volumes }, outcome))
        })
    }
}

/// The existing partitions to open, by number: those with a role, one of each. Where the image encrypts, a partition that no
/// definition asked for is somebody else's and must not appear in our tree, whatever it calls itself.
fn chosen<'a>(
    agent: &mut Agent,
    plan: &'a Plan,
    created: &[Volume],
) -> Vec<(Role, &'a PlannedPartition)> {
    let encrypts = |p: &PlannedPartition| {
        p.definition()
            .is_some_and(|definition| definition.content.encrypt != Encrypt::Off)
    };
    let defined_only = plan.partitions.iter().any(encrypts);
    let mut taken: Vec<Role> = created.iter().map(|volume| volume.role).collect();
    let mut existing: Vec<&PlannedPartition> = plan
        .partitions
        .iter()
        .filter(|p| p.activity != Activity::Created && p.attributes & NO_AUTO == 0)
        .collect();
    existing.sort_by_key(|partition| partition.number);
    let mut chosen = Vec::new();
    for partition in existing {
        let name = partition.partition_type.name();
        let Some(role) = name.as_deref().and_then(Role::of_type) else {
            continue;
        };
        let text = |why: &str| {
            format!(
                "partition {} ({}) is left alone: {why}",
                partition.number,
                role.name()
            )
        };
        if defined_only && partition.definition().is_none() {
            agent.warn("volume-foreign", text("no definition asks for it"));
        } else if taken.contains(&role) {
            agent.warn(
                "volume-duplicate",
                text("another one has this part already"),
            );
        } else {
            taken.push(role);
            chosen.push((role, partition));
        }
    }
    chosen
}

/// Opens one partition.
fn open(
    agent: &mut Agent,
    boot: &mut BootDisk,
    partition: &PlannedPartition,
    role: Role,
) -> Result<Volume, Failure> {
    let name = role.name();
    let failed = |code, why: String| {
        let what = format!(
            "the {name} volume, partition {} of {}: {why}",
            partition.number,
            boot.disk.node.display()
        );
        Failure::plain(Stage::Unlock, code, what, Remedy::Reinstall)
    };
    let node = boot.disk.partition(partition.number).map(|p| p.node);
    let Some(node) = node else {
        return Err(failed("volume-missing", "it has no device node".to_owned()));
    };
    let content = switchroot::probe::device(&node)
        .map_err(|error| failed("volume-unreadable", error.to_string()))?;
    let wanted = partition
        .definition()
        .map_or(Encrypt::Off, |definition| definition.content.encrypt);
    let node = match (content, wanted) {
        (Some("crypto_LUKS"), _) => open_luks(agent, boot, &node, role)?,
        (_, Encrypt::Off) => node,
        (found, _) => {
            let found = found.unwrap_or("nothing known");
            let why = format!(
                "its definition says Encrypt=, but it holds {found}; somebody may have replaced it"
            );
            return Err(failed("volume-not-encrypted", why));
        }
    };
    Ok(Volume {
        role,
        number: partition.number,
        node,
        created: false,
        read_only: partition.attributes & READ_ONLY != 0,
        grow: partition.attributes & GROW != 0,
    })
}

impl BootDisk {
    /// Modules of encrypted volumes, once a boot.
    pub fn load_cipher(&mut self, agent: &mut Agent) {
        if std::mem::replace(&mut self.has_cipher, true) {
            return;
        }
        for module in luks::MODULES {
            self.load_module(agent, module);
        }
        let (cipher, module) = luks::CIPHER;
        let known = std::fs::read_to_string(agent.root.join("proc/crypto")).unwrap_or_default();
        let has_cipher = known.lines().any(|line| {
            line.split_once(':')
                .is_some_and(|(key, value)| key.trim() == "name" && value.trim() == cipher)
        });
        if !has_cipher {
            self.load_module(agent, module);
        }
    }
}

fn open_luks(
    agent: &mut Agent,
    boot: &mut BootDisk,
    node: &Path,
    role: Role,
) -> Result<PathBuf, Failure> {
    let name = role.name();
    boot.load_cipher(agent);
    let what = format!("the encrypted volume {name} on {}", node.display());
    let Some(trust) = &mut boot.trust else {
        let text = format!("{what} is sealed to a TPM2, and this machine shows none");
        return Err(Failure::plain(
            Stage::Unlock,
            "tpm-missing",
            text,
            Remedy::EnableTpm,
        ));
    };
    let opened = agent.step(format!("open {name}"), |_| {
        luks::open(
            node,
            name,
            &mut trust.tpm,
            trust.signatures.as_ref(),
            &trust.log,
        )
    });
    let mapping = opened.map_err(|error| {
        let (code, remedy) = classify(&error);
        Failure::new(Stage::Unlock, code, what, remedy, error)
    })?;
    record_mapping(agent, &mapping);
    Ok(mapping.path)
}

fn classify(error: &LuksError) -> (&'static str, Remedy) {
    match error {
        LuksError::Tpm { source, .. } => match source {
            TpmError::PolicyMismatch { .. } => ("tpm-policy-mismatch", Remedy::RestoreTpm),
            TpmError::OtherTpm { .. } => ("tpm-replaced", Remedy::RestoreTpm),
            TpmError::Lockout { .. } => ("tpm-lockout", Remedy::RestoreTpm),
            TpmError::Absent { .. } => ("tpm-missing", Remedy::RestoreTpm),
            _ => ("tpm-unseal-failed", Remedy::RestoreTpm),
        },
        LuksError::Header { .. } | LuksError::Refused { .. } => {
            ("volume-header-refused", Remedy::Reinstall)
        }
        _ => ("volume-unopened", Remedy::TryAgain),
    }
}

/// What protects each volume goes into the report; the tier is that of the root.
fn file_volumes(agent: &mut Agent, volumes: &[Volume]) {
    for volume in volumes {
        let encrypted = volume.node.starts_with("/dev/mapper");
        let filesystem = switchroot::probe::device(&volume.node)
            .ok()
            .flatten()
            .unwrap_or_default();
        if let Some(entry) = agent
            .report
            .partitions
            .iter_mut()
            .find(|p| p.number == volume.number)
        {
            entry.encryption = if encrypted { "luks2-tpm2" } else { "none" };
            filesystem.clone_into(&mut entry.filesystem);
        }
        if encrypted && volume.role == Role::Root {
            let secure_boot = crate::efi::Variables::below(&agent.root).secure_boot();
            agent.report.tier = if secure_boot {
                "tpm2-secure-boot"
            } else {
                "tpm2"
            };
        }
    }
}
