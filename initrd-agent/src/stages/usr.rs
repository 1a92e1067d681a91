//! `usr` and `reset`: `/usr` proven against its root hash, and whether somebody asked for a factory reset.

use crate::agent::{Agent, Outcome};
use crate::bootdisk::{Wanted, usr_partitions};
use crate::cmdline::Cmdline;
use crate::config::OnCorruption;
use crate::failure::{Failure, Remedy, Stage};
use crate::reset::osrelease::OsRelease;
use crate::reset::request::{Evidence, decide};
use crate::stages::devices::BootDisk;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use switchroot::{MountOptions, mount_device};
use unlock::verity::{self, VerityError};

/// A machine whose `/usr` is genuine.
#[derive(Debug)]
pub struct VerifiedUsr {
    /// From the stage before.
    pub boot: BootDisk,
    /// `/usr`, mounted read-only and attached nowhere.
    pub usr: OwnedFd,
}

/// The same, and it is known whether to reset.
#[derive(Debug)]
pub struct Decided {
    /// From the stage before.
    pub verified: VerifiedUsr,
}

/// Kernel modules of the way to `/usr`; what is built in or absent is no error here, the use of it tells. The fast hash
/// comes first: a mapping keeps the one it began with.
const MODULES: [&str; 3] = ["sha256", "dm-mod", "dm-verity"];

impl BootDisk {
    /// Maps and mounts `/usr`.
    ///
    /// # Errors
    /// Partitions that are missing or ambiguous, a hash that does not match, a file system the kernel refuses.
    pub fn verify_usr(mut self, agent: &mut Agent) -> Result<VerifiedUsr, Failure> {
        agent.stage(Stage::Usr, |agent| {
            let [data, tree] = self.usr_nodes(agent)?;
            for module in MODULES {
                self.load_module(agent, module);
            }
            let request = verity::Request {
                name: "usr",
                data: &data,
                hash: &tree,
                root_hash: self.usr_hash,
                on_corruption: match agent.config.usr_corruption {
                    OnCorruption::Panic => verity::OnCorruption::Panic,
                    OnCorruption::Restart => verity::OnCorruption::Restart,
                },
                signature: None,
            };
            let mapping = agent
                .step("dm-verity", |_| verity::open(&request))
                .map_err(|e| refused(&data, e))?;
            let usr = self.mount_usr(agent, &mapping.path)?;
            record_mapping(agent, &mapping);
            agent.report.usr = Some(crate::report::Usr {
                hash: self
                    .usr_hash
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect(),
                partition: data.display().to_string(),
                verity: tree.display().to_string(),
                signature: "none",
            });
            Ok((VerifiedUsr { boot: self, usr }, Outcome::Done))
        })
    }

    /// Nodes of the data and hash partitions, on the boot disk and nowhere else.
    fn usr_nodes(&self, agent: &Agent) -> Result<[PathBuf; 2], Failure> {
        let uuids = chosen_partitions(&agent.cmdline, usr_partitions(&self.usr_hash))?;
        let node = |what: &str, uuid: &str| {
            let missing = |why: String| {
                let text = format!(
                    "the {what} partition of /usr on {}: {why}",
                    self.disk.node.display()
                );
                Failure::plain(Stage::Usr, "usr-partition-missing", text, Remedy::Reinstall)
            };
            let number = Wanted::partition(&self.seen, uuid).map_err(missing)?;
            let partition = self.disk.partition(number);
            partition
                .map(|p| p.node)
                .ok_or_else(|| missing(format!("partition {number} has no device node")))
        };
        Ok([node("data", &uuids[0])?, node("hash", &uuids[1])?])
    }

    fn mount_usr(&mut self, agent: &mut Agent, device: &Path) -> Result<OwnedFd, Failure> {
        let failed = |error: switchroot::Error| {
            Failure::new(
                Stage::Usr,
                "usr-mount-failed",
                "/usr",
                Remedy::FixImage,
                error,
            )
        };
        let found = switchroot::probe::device(device).map_err(|source| {
            failed(switchroot::Error::Probe {
                device: device.to_owned(),
                source,
            })
        })?;
        if let Some(name) = found {
            self.load_module(agent, name);
        }
        let flags = agent
            .cmdline
            .value("usrflags")
            .or_else(|| agent.cmdline.value("mount.usrflags"));
        let options = MountOptions::parse(flags.unwrap_or_default()).read_only();
        let mounted = agent
            .step("mount /usr", |_| mount_device(device, &[], &options))
            .map_err(failed)?;
        Ok(mounted.mount)
    }

    /// Loads a module that no device asks for; a failure is a warning, because it may be built in under another name.
    pub fn load_module(&mut self, agent: &mut Agent, name: &str) {
        let loaded = agent.step(format!("module {name}"), |_| {
            self.devices.modules().load(name)
        });
        if let Err(error) = loaded {
            agent.warn("module-failed", error.to_string());
        }
    }
}

/// `systemd.verity_usr_data=` and `_hash=` may name other partitions of the boot disk, by `PARTUUID=`.
fn chosen_partitions(cmdline: &Cmdline, derived: [String; 2]) -> Result<[String; 2], Failure> {
    let [data, tree] = derived;
    let chosen = |option: &str, derived: String| match cmdline.value(option) {
        None => Ok(derived),
        Some(value) => partition_uuid(value).ok_or_else(|| {
            let text = format!("{option}={value}: only PARTUUID= on the boot disk is accepted");
            Failure::plain(Stage::Usr, "usr-device-refused", text, Remedy::FixPolicy)
        }),
    };
    Ok([
        chosen("systemd.verity_usr_data", data)?,
        chosen("systemd.verity_usr_hash", tree)?,
    ])
}

fn partition_uuid(value: &str) -> Option<String> {
    let uuid = value
        .strip_prefix("PARTUUID=")
        .or_else(|| value.strip_prefix("/dev/disk/by-partuuid/"))?;
    let sound = uuid.len() == 36 && uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    sound.then(|| uuid.to_ascii_lowercase())
}

fn refused(data: &Path, error: VerityError) -> Failure {
    let code = match &error {
        VerityError::WrongHash { .. } => "usr-wrong-hash",
        VerityError::FirstRead { .. } => "usr-unreadable",
        VerityError::Superblock { .. } | VerityError::Unacceptable { .. } => {
            "usr-hash-tree-unreadable"
        }
        _ => "usr-verity-failed",
    };
    let what = format!("/usr on {} is not what usrhash= promises", data.display());
    Failure::new(Stage::Usr, code, what, Remedy::Reinstall, error)
}

/// Leaves what the booted system's udev must know about a mapping it did not see being made.
pub fn record_mapping(agent: &mut Agent, mapping: &unlock::Mapping) {
    use std::os::unix::fs::OpenOptionsExt;
    let directory = agent
        .root
        .join(unlock::udev::DATABASE.trim_start_matches('/'));
    let path = directory.join(unlock::udev::udev_database_name(mapping));
    let written = std::fs::create_dir_all(&directory).and_then(|()| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(unlock::udev::ENTRY_MODE)
            .open(&path)?;
        std::io::Write::write_all(
            &mut file,
            unlock::udev::udev_database_entry(mapping).as_bytes(),
        )
    });
    if let Err(error) = written {
        agent.warn("udev-database", format!("{}: {error}", path.display()));
    }
}

impl VerifiedUsr {
    /// Looks for a request to reset.
    ///
    /// # Errors
    /// A request that cannot be understood on the signed command line.
    pub fn decide_reset(self, agent: &mut Agent) -> Result<Decided, Failure> {
        agent.stage(Stage::Reset, |agent| {
            let requested = agent.cmdline.boolean("systemd.factory_reset").map_err(|e| {
                Failure::new(Stage::Reset, "factory-reset-invalid", "the reset request", Remedy::FixPolicy, e)
            })?;
            if requested == Some(true) {
                return Err(Failure::plain(
                    Stage::Reset,
                    "factory-reset-unsupported",
                    "systemd.factory_reset=yes asks for a factory reset, which this version does not do; nothing was changed",
                    Remedy::FixPolicy,
                ));
            }
            self.name_requests(agent);
            Ok((Decided { verified: self }, Outcome::Unchanged))
        })
    }

    /// A request in an EFI variable cannot be carried out yet, and must not keep the machine from booting: it is named.
    fn name_requests(&self, agent: &mut Agent) {
        let path = format!("/proc/self/fd/{}/lib/os-release", self.usr.as_raw_fd());
        let os = match OsRelease::read(Path::new(&path)) {
            Ok(os) => os,
            Err(error) => {
                agent.warn("os-release", format!("/usr/lib/os-release: {error}"));
                return;
            }
        };
        let evidence = Evidence::gather(&agent.root, &agent.cmdline, os);
        let judgement = decide(&evidence, None, &[]);
        for ignored in &judgement.ignored {
            agent.warn("factory-reset-ignored", ignored.to_string());
        }
        if judgement.decision.resets().is_some() {
            let text = "an EFI variable asks for a factory reset, which this version does not do; nothing is erased (initrd-agent reset cancel takes the request back)";
            agent.warn("factory-reset-unsupported", text);
        }
    }
}
