//! `repart`: the partition table brought to what the verified definitions ask for.
//!
//! Invariant: nothing is written before the whole plan is sound, every program and key it needs is there, and the TPM
//! has given back each secret it sealed. Contents come before the table: a cut leaves the old table, and the next boot
//! begins again.

use crate::agent::{Agent, Outcome};
use crate::failure::{Failure, Remedy, Stage};
use crate::stages::contents::FirstContents;
use crate::stages::devices::BootDisk;
use crate::stages::usr::{Decided, VerifiedUsr};
use crate::volumes::Volume;
use repart::definition::{Definitions, DirFiles, FileContent, Files, LoadContext};
use repart::{ApplyError, BlockDevice, Guid, Plan, PlanError, Policy};

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A machine whose partitions are what the image wants.
#[derive(Debug)]
pub struct Partitioned {
    /// From earlier stages.
    pub boot: BootDisk,
    /// `/usr`, mounted.
    pub usr: OwnedFd,
    /// What was planned and carried out.
    pub plan: Plan,
    /// Volumes this boot made, open already.
    pub created: Vec<Volume>,
}

/// Where definitions are looked for, in the verified `/usr` first (`CONTRACT` section 2).
const OF_USR: [&str; 2] = ["/usr/local/lib/repart.d", "/usr/lib/repart.d"];
const OF_INITRD: [&str; 2] = ["/etc/repart.d", "/usr/lib/repart.d"];

impl Decided {
    /// Plans, checks and applies.
    ///
    /// # Errors
    /// Broken definitions, a plan that does not fit, contents that cannot be made.
    pub fn repartition(self, agent: &mut Agent) -> Result<Partitioned, Failure> {
        agent.stage(Stage::Repart, |agent| {
            let VerifiedUsr { mut boot, usr } = self.verified;
            let definitions = agent.step("definitions", |agent| load(agent, &usr))?;
            let mut disk = open(&boot)?;
            let plan = agent.step("plan", |agent| plan(agent, &disk, &definitions))?;
            for partition in &plan.dropped {
                let text = format!(
                    "{} got no partition: it needs {} bytes",
                    partition.definition.path.display(),
                    partition.need
                );
                agent.warn("partition-dropped", text);
            }
            let mut contents = FirstContents::new(agent, &mut boot);
            let outcome = repart::apply(&plan, &mut disk, &mut contents);
            let created = contents.into_volumes();
            let outcome = match outcome.map_err(|error| not_applied(&boot, error))? {
                repart::Outcome::Unchanged => Outcome::Unchanged,
                repart::Outcome::Changed => {
                    agent.console.show(&format!(
                        "initrd-agent: partitions of {}\n{plan}",
                        boot.disk.node.display()
                    ));
                    Outcome::Done
                }
            };
            file_partitions(agent, &plan);
            Ok((
                Partitioned {
                    boot,
                    usr,
                    plan,
                    created,
                },
                outcome,
            ))
        })
    }
}

/// The definitions of the verified `/usr`; only if it has none, the initrd's own.
fn load(agent: &mut Agent, usr: &OwnedFd) -> Result<Definitions, Failure> {
    let context = LoadContext::default();
    let invalid = |error| {
        Failure::new(
            Stage::Repart,
            "definitions-invalid",
            "a repart.d definition",
            Remedy::FixImage,
            error,
        )
    };
    let files = UsrFiles {
        usr: PathBuf::from(format!("/proc/self/fd/{}", usr.as_raw_fd())),
    };
    let mut definitions =
        Definitions::load(&files, &OF_USR.map(PathBuf::from), &context).map_err(invalid)?;
    if definitions.list.is_empty() {
        definitions = Definitions::load(&DirFiles, &OF_INITRD.map(PathBuf::from), &context)
            .map_err(invalid)?;
    }
    for warning in &definitions.warnings {
        agent.warn("definition", warning.to_string());
    }
    Ok(definitions)
}

/// Files of a `/usr` that is mounted but attached nowhere, under the names they will have.
struct UsrFiles {
    usr: PathBuf,
}

impl UsrFiles {
    fn real(&self, path: &Path) -> PathBuf {
        self.usr.join(path.strip_prefix("/usr").unwrap_or(path))
    }
}

impl Files for UsrFiles {
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        DirFiles.list(&self.real(dir))
    }

    fn read(&self, path: &Path) -> io::Result<FileContent> {
        DirFiles.read(&self.real(path))
    }
}

fn open(boot: &BootDisk) -> Result<BlockDevice, Failure> {
    let what = || format!("the boot disk {}", boot.disk.node.display());
    let file = boot.disk.open(true).map_err(|error| {
        Failure::new(
            Stage::Repart,
            "disk-unopenable",
            what(),
            Remedy::CheckHardware,
            error,
        )
    })?;
    BlockDevice::from_file(file, &boot.disk.node, None).map_err(|error| {
        Failure::new(
            Stage::Repart,
            "disk-unopenable",
            what(),
            Remedy::CheckHardware,
            error,
        )
    })
}

fn plan(agent: &mut Agent, disk: &BlockDevice, definitions: &Definitions) -> Result<Plan, Failure> {
    let what = disk.path().display().to_string();
    let snapshot = repart::observe(disk).map_err(|error| {
        Failure::new(
            Stage::Repart,
            "table-unreadable",
            what.clone(),
            Remedy::CheckHardware,
            error,
        )
    })?;
    let seed = seed(agent)?;
    let mut policy = Policy::new(seed, random()?);
    policy.fs_sector_size = snapshot.sector_size.into();
    repart::plan(&snapshot, definitions, &policy).map_err(|error| {
        let (code, remedy) = match &error {
            PlanError::Unfit(_) | PlanError::DiskTooSmall { .. } => {
                ("disk-too-small", Remedy::MakeRoom)
            }
            PlanError::NoTable { .. } | PlanError::OtherTable { .. } => {
                ("table-missing", Remedy::Reinstall)
            }
            PlanError::BuildOnly { .. } | PlanError::SupplementExcluded { .. } => {
                ("definitions-invalid", Remedy::FixImage)
            }
            _ => ("table-unusable", Remedy::CheckHardware),
        };
        Failure::new(
            Stage::Repart,
            code,
            format!("no plan for {what}; nothing was written"),
            remedy,
            error,
        )
    })
}

/// Key of the derived UUIDs: the machine id if the command line names one, else random. A first boot has none.
fn seed(agent: &Agent) -> Result<Guid, Failure> {
    match agent
        .cmdline
        .value("systemd.machine_id")
        .and_then(Guid::parse)
    {
        Some(id) => Ok(id),
        None => random(),
    }
}

fn random() -> Result<Guid, Failure> {
    let mut bytes = [0; 16];
    // 16 bytes are never cut short (getrandom(2)).
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).map_err(
        |error| {
            Failure::new(
                Stage::Repart,
                "random",
                "the kernel's random numbers",
                Remedy::TryAgain,
                error,
            )
        },
    )?;
    Ok(Guid::from_bytes(bytes))
}

fn not_applied(boot: &BootDisk, error: ApplyError) -> Failure {
    let (code, remedy) = match &error {
        ApplyError::Prepare { source, .. } | ApplyError::Make { source, .. } => {
            crate::stages::contents::classify(source.as_ref())
        }
        ApplyError::Observe(_)
        | ApplyError::Wipe { .. }
        | ApplyError::Flush(_)
        | ApplyError::Table(_) => ("disk-write-failed", Remedy::CheckHardware),
        ApplyError::Check(_) => ("plan-unsound", Remedy::TryAgain),
        ApplyError::Publish(_) => ("kernel-not-told", Remedy::TryAgain),
    };
    let what = format!("the partitions of {}", boot.disk.node.display());
    Failure::new(Stage::Repart, code, what, remedy, error)
}

fn file_partitions(agent: &mut Agent, plan: &Plan) {
    agent.report.partitions = plan
        .partitions
        .iter()
        .map(|p| crate::report::Partition {
            uuid: p.uuid.to_string(),
            type_name: p.partition_type.name_or_uuid(),
            label: p.label.clone(),
            number: p.number,
            offset: p.offset,
            size: p.size,
            activity: p.activity.name(),
            encryption: "none",
            filesystem: String::new(),
        })
        .collect();
}
