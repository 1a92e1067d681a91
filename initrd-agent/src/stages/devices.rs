//! `devices`: drivers, the TPM, and the one disk we were booted from.

use crate::agent::{Agent, Outcome};
use crate::bootdisk::{Choice, Entry, Seen, Wanted, usr_partitions};
use crate::devices::{Devices, DevicesError, Disk, Modules, disks, modules};
use crate::efi::Variables;
use crate::failure::{Failure, Remedy, Stage};
use crate::stages::early::Early;
use crate::trust::Trust;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long the kernel must be silent before "only one disk carries this" is believed, when the firmware did not
/// tell which disk we were started from. Disks of one controller are announced within a few milliseconds.
const SILENCE: Duration = Duration::from_millis(100);

/// The boot disk, and what brought it up.
#[derive(Debug)]
pub struct BootDisk {
    /// From the stage before.
    pub early: Early,
    /// Modules and events.
    pub devices: Devices,
    /// The TPM, if there is one.
    pub trust: Option<Trust>,
    /// The disk.
    pub disk: Disk,
    /// Its table as it was seen.
    pub seen: Seen,
    /// Root hash of `/usr`.
    pub usr_hash: [u8; 32],
    /// The cipher of encrypted volumes was seen to.
    pub has_cipher: bool,
}

impl Early {
    /// Loads drivers and waits for the boot disk.
    ///
    /// # Errors
    /// No `usrhash=`, no boot disk within the deadline, or two of them.
    pub fn find_boot_disk(self, agent: &mut Agent) -> Result<BootDisk, Failure> {
        agent.stage(Stage::Devices, |agent| {
            let usr_hash = usr_hash(agent)?;
            let mut devices = agent.step("coldplug", start)?;
            mount_efi(agent, &mut devices)?;
            let variables = Variables::below(&agent.root);
            let trust =
                Trust::establish(agent, &mut devices, &variables, self.signed_policy.as_ref())?;
            let wanted = Wanted {
                loader: variables.boot_partition(),
                usr: usr_partitions(&usr_hash),
            };
            let (disk, seen) = agent.step("wait for the boot disk", |agent| {
                find(agent, &mut devices, &wanted)
            })?;
            agent.step("partition nodes", |agent| {
                give_nodes(agent, &mut devices, &disk, &seen)
            })?;
            agent.report.disk = Some(crate::report::Disk {
                path: disk.node.display().to_string(),
                id: seen.id.clone(),
                sector_size: disk.sector_size.into(),
                size: disk.size,
            });
            for failure in devices
                .failures()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
            {
                agent.warn("module-failed", failure);
            }
            Ok((
                BootDisk {
                    early: self,
                    devices,
                    trust,
                    disk,
                    seen,
                    usr_hash,
                    has_cipher: false,
                },
                Outcome::Done,
            ))
        })
    }
}

fn usr_hash(agent: &Agent) -> Result<[u8; 32], Failure> {
    let hash = agent.cmdline.usr_hash().map_err(|e| {
        Failure::new(
            Stage::Devices,
            "usrhash-invalid",
            "the root hash of /usr",
            Remedy::FixPolicy,
            e,
        )
    })?;
    hash.ok_or_else(|| {
        Failure::plain(
            Stage::Devices,
            "usrhash-missing",
            "the kernel command line has no usrhash=, so nothing tells which /usr is genuine",
            Remedy::FixPolicy,
        )
    })
}

fn failed(code: &'static str, what: &str) -> impl FnOnce(DevicesError) -> Failure {
    let what = what.to_owned();
    move |error| Failure::new(Stage::Devices, code, what, Remedy::CheckHardware, error)
}

fn start(agent: &mut Agent) -> Result<Devices, Failure> {
    let release = modules::running_release();
    let modules = Modules::open(&agent.root, &release).map_err(|e| {
        Failure::new(
            Stage::Devices,
            "modules-unusable",
            "the initrd's kernel modules",
            Remedy::FixImage,
            e,
        )
    })?;
    Devices::start(&agent.root, modules)
        .map_err(failed("devices-unreadable", "the kernel's devices"))
}

/// EFI variables may need a module; without EFI there is nothing to mount and nothing is missed.
fn mount_efi(agent: &mut Agent, devices: &mut Devices) -> Result<(), Failure> {
    if !agent.root.join("sys/firmware/efi").is_dir() {
        return Ok(());
    }
    if let Err(error) = devices.modules().load("efivarfs") {
        agent.warn("module-failed", error.to_string());
    }
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(
            Stage::Devices,
            "efivars",
            "the EFI variables",
            Remedy::TryAgain,
            error,
        )
    };
    let root = std::fs::File::open(&agent.root).map_err(|e| broken(Box::new(e)))?;
    switchroot::apply(root.as_fd(), &switchroot::efi_mounts()).map_err(|e| broken(Box::new(e)))?;
    Ok(())
}

/// Disks as they were read, by sequence number: a table is read once for each appearance of a disk.
type Known = BTreeMap<u64, (Disk, Seen)>;

fn find(
    agent: &mut Agent,
    devices: &mut Devices,
    wanted: &Wanted,
) -> Result<(Disk, Seen), Failure> {
    let root = agent.root.clone();
    let deadline = Instant::now() + agent.config.device_timeout;
    let mut known = Known::new();
    let what = describe(wanted);
    let quick = bring_up(devices, &root, &mut known, wanted, deadline)?;
    let first = match quick {
        Some(choice) => Ok(choice),
        None => devices.wait_for(&what, deadline, |_| look(&root, &mut known, wanted)),
    };
    let mut choice = match first {
        Ok(choice) => choice,
        Err(error) => return Err(absent(error, &known)),
    };
    if wanted.loader.is_none() {
        // A second disk with the same /usr may be a moment behind the first.
        while Instant::now() < deadline
            && devices
                .wait_quietly(SILENCE)
                .map_err(failed("devices-unreadable", "the kernel's devices"))?
        {
            choice = look(&root, &mut known, wanted).unwrap_or(Choice::None);
        }
    }
    let list: Vec<&(Disk, Seen)> = known.values().collect();
    match choice {
        Choice::One(index) => list
            .get(index)
            .map(|(d, s)| (d.clone(), s.clone()))
            .ok_or_else(|| {
                Failure::plain(
                    Stage::Devices,
                    "boot-disk-gone",
                    "the boot disk went away",
                    Remedy::CheckHardware,
                )
            }),
        Choice::Several(all) => Err(ambiguous(&what, &all, &list)),
        Choice::None => Err(Failure::plain(
            Stage::Devices,
            "boot-disk-missing",
            what,
            Remedy::CheckHardware,
        )),
    }
}

/// Loads all drivers unless those on the way have brought the disk of the firmware's choice. Without one all are
/// needed: a second disk with the same `/usr` may be anywhere.
fn bring_up(
    devices: &mut Devices,
    root: &std::path::Path,
    known: &mut Known,
    wanted: &Wanted,
    deadline: Instant,
) -> Result<Option<Choice>, Failure> {
    let unreadable = || failed("devices-unreadable", "the kernel's devices");
    devices.handle_events().map_err(unreadable())?;
    while wanted.loader.is_some() && Instant::now() < deadline {
        let found = look(root, known, wanted);
        if found.is_some() {
            return Ok(found);
        }
        // Controllers tell of their disks a moment later than of themselves.
        if !devices.wait_quietly(SILENCE).map_err(unreadable())? {
            break;
        }
    }
    devices.bring_up_all();
    Ok(None)
}

fn describe(wanted: &Wanted) -> String {
    match &wanted.loader {
        Some(uuid) => format!(
            "the disk with the EFI system partition {uuid} that this machine was started from"
        ),
        None => format!(
            "a disk with the /usr partitions {} and {}",
            wanted.usr[0], wanted.usr[1]
        ),
    }
}

fn absent(error: DevicesError, known: &Known) -> Failure {
    let mut text = "the boot disk is not there".to_owned();
    for (_, seen) in known.values() {
        text.push_str(&format!("\nseen instead: {seen}"));
    }
    Failure::new(
        Stage::Devices,
        "boot-disk-missing",
        text,
        Remedy::CheckHardware,
        error,
    )
}

fn ambiguous(what: &str, all: &[usize], list: &[&(Disk, Seen)]) -> Failure {
    let mut why = format!("{} disks claim to be {what}", all.len());
    for (_, seen) in all.iter().filter_map(|index| list.get(*index)) {
        why.push_str(&format!("\n{seen}"));
    }
    Failure::new(
        Stage::Devices,
        "boot-disk-ambiguous",
        "the boot disk cannot be told from another; none is written to",
        Remedy::DetachDuplicate,
        why,
    )
}

/// Reads the tables of disks that are new, forgets those that went, and decides.
fn look(root: &std::path::Path, known: &mut Known, wanted: &Wanted) -> Option<Choice> {
    let present = disks::list(root).unwrap_or_default();
    // A disk that could not be read is looked at again: its node may have come a moment after its name.
    known.retain(|_, (disk, seen)| seen.entries.is_ok() && present.contains(disk));
    for (index, disk) in present.into_iter().enumerate() {
        let key = if disk.sequence == 0 {
            index as u64
        } else {
            disk.sequence
        };
        known.entry(key).or_insert_with(|| {
            let seen = read_table(&disk);
            (disk, seen)
        });
    }
    let list: Vec<Seen> = known.values().map(|(_, seen)| seen.clone()).collect();
    match wanted.choose(&list) {
        Choice::None => None,
        choice => Some(choice),
    }
}

fn read_table(disk: &Disk) -> Seen {
    let mut id = String::new();
    let entries = disk
        .open(false)
        .map_err(|e| e.to_string())
        .and_then(|file| {
            let device = repart::BlockDevice::from_file(file, &disk.node, None)
                .map_err(|e| e.to_string())?;
            let snapshot = repart::observe(&device).map_err(|e| e.to_string())?;
            let table = match &snapshot.table {
                repart::TableState::Gpt(gpt) => &gpt.table,
                repart::TableState::None => return Err("no partition table".to_owned()),
                repart::TableState::Other(what) => return Err(what.clone()),
            };
            id = table.disk_guid.to_string();
            let sector = u64::from(snapshot.sector_size);
            Ok(table
                .used()
                .map(|entry| Entry {
                    number: entry.number,
                    type_uuid: entry.partition_type.uuid().to_string(),
                    uuid: entry.guid.to_string(),
                    offset: entry.first_lba * sector,
                    size: (entry.last_lba + 1).saturating_sub(entry.first_lba) * sector,
                })
                .collect())
        });
    let model = [disk.model(), disk.serial()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ");
    Seen {
        node: disk.node.clone(),
        id,
        size: disk.size,
        model,
        entries,
    }
}

/// Sees to it that every partition of the table has a device node. The kernel made them already, unless it could not
/// read the primary table (block/partitions/efi.c uses the backup only with `gpt` on its command line).
fn give_nodes(
    agent: &Agent,
    devices: &mut Devices,
    disk: &Disk,
    seen: &Seen,
) -> Result<(), Failure> {
    let entries = seen.entries.as_deref().unwrap_or_default();
    let missing: Vec<&Entry> = entries
        .iter()
        .filter(|entry| disk.partition(entry.number).is_none())
        .collect();
    if !missing.is_empty() {
        let file = disk
            .open(false)
            .map_err(failed("boot-disk-unreadable", "the boot disk"))?;
        for entry in missing {
            sys::block::add_partition(file.as_fd(), entry.number, entry.offset, entry.size)
                .map_err(|e| {
                    let what = format!("partition {} of {}", entry.number, disk.node.display());
                    Failure::new(
                        Stage::Devices,
                        "partition-unusable",
                        what,
                        Remedy::CheckHardware,
                        e,
                    )
                })?;
        }
    }
    let deadline = Instant::now() + agent.config.device_timeout;
    let ready = |entry: &Entry| disk.partition(entry.number).is_some_and(|p| p.is_ready());
    devices
        .wait_for("the partitions of the boot disk", deadline, |_| {
            entries.iter().all(ready).then_some(())
        })
        .map_err(failed(
            "partition-missing",
            "the partitions of the boot disk",
        ))
}
