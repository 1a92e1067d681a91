//! What scenarios are made of: a system (kernel, initrd, `/usr`, policy) turned into disks and machines.
//!
//! Owns the preparation, once a run: packed initrds and UKIs are cached by content. Invariant: whatever a scenario
//! changes belongs to its own directory, so that two can run side by side and a failed one can be looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::definitions::{self, Definition};
use fixtures::{
    Cache, DiskSpec, FileSystem, Flavour, Kernel, Key, Signing, TinySpec, UkiSpec, UsrImage,
};

use crate::disk::{Bus, Disk, copy};
use crate::error::{Error, Result, chain, file, no_dir};
use crate::evidence;
use crate::machine::{Boot, Machine};
use crate::tpm::TpmModel;

/// Quick to fail and, unlike the defaults, without a delay for people to read the card.
const POLICY: &str = "on-failure = \"poweroff\"\non-failure-delay = 0\ndevice-timeout = 8\n";
/// `quiet`, because kernel lines can come in the middle of others on a serial line and tear markers.
const OPTIONS: &str = "console=ttyS0 quiet panic=-1 rw";
const MIB: u64 = 1 << 20;

/// Where the products under test and the results are.
pub struct Ctx {
    /// What a build leaves: `init`, `initrd-agent`, `mkfs.*`.
    pub dist: PathBuf,
    /// One directory a scenario is made below this one.
    pub out: PathBuf,
    /// The static `tiny-init` program of the fixtures.
    pub tiny_init: PathBuf,
    /// The cache of everything that other people's tools make.
    pub cache: Cache,
    /// How many machines run at once.
    pub at_once: usize,
}

impl Ctx {
    /// A context for two machines at once.
    #[must_use]
    pub fn new(dist: &Path, out: &Path, tiny_init: &Path, cache: Cache) -> Self {
        let (dist, out, tiny_init) = (
            dist.to_path_buf(),
            out.to_path_buf(),
            tiny_init.to_path_buf(),
        );
        Self {
            dist,
            out,
            tiny_init,
            cache,
            at_once: 2,
        }
    }

    /// An empty directory to work in.
    pub fn bench(&self, name: &str) -> Result<Bench<'_>> {
        let dir = self.out.join(name);
        no_dir(&dir)?;
        fs::create_dir_all(&dir).map_err(file("create", &dir))?;
        let dir = fs::canonicalize(&dir).map_err(file("find", &dir))?;
        Ok(Bench {
            ctx: self,
            dir,
            code: "",
        })
    }

    /// Packs an initrd with the tool that ships.
    fn initrd(&self, kernel: &Kernel, mkfs: &str, policy: &str) -> Result<PathBuf> {
        let agent = self.dist.join("initrd-agent");
        let mut key = Key::new("initrd", 1)
            .product(&kernel.tree)
            .text(mkfs)
            .text(policy);
        for name in ["init", "initrd-agent"]
            .map(str::to_owned)
            .into_iter()
            .chain(mkfs_programs(mkfs))
        {
            key = key.file(&self.dist.join(name)).map_err(prepare("initrd"))?;
        }
        let product = self.cache.step("initrd", &key, |dir| {
            let config = dir.join("agent.toml");
            fs::write(&config, policy).map_err(|error| fixtures::Error::Spec(error.to_string()))?;
            let mut pack = Command::new(&agent);
            pack.arg("pack").arg("--tree").arg(&kernel.tree).args([
                "--kernel",
                &kernel.version,
                "--mkfs",
                mkfs,
            ]);
            pack.arg("--config")
                .arg(&config)
                .arg("--output")
                .arg(dir.join("initrd"));
            evidence::output(&mut pack)
                .map(drop)
                .map_err(|error| fixtures::Error::Spec(chain(&error)))
        });
        Ok(product.map_err(prepare("initrd"))?.join("initrd"))
    }
}

fn mkfs_programs(list: &str) -> impl Iterator<Item = String> {
    list.split(',')
        .filter(|name| *name != "none")
        .map(|name| format!("mkfs.{name}"))
}

fn prepare(what: &str) -> impl FnOnce(fixtures::Error) -> Error {
    let what = what.to_owned();
    move |error| Error::Prepare {
        what,
        why: chain(&error),
    }
}

/// The directory of one scenario.
pub struct Bench<'a> {
    /// The context.
    pub ctx: &'a Ctx,
    /// The directory.
    pub dir: PathBuf,
    /// The failure code that the scenario's machine is expected to give, if it is to fail.
    pub code: &'static str,
}

impl<'a> Bench<'a> {
    /// The tiny system: boots in seconds, reports, powers off.
    #[must_use]
    pub fn tiny(&'a self) -> System<'a> {
        System {
            bench: self,
            content: Content::Tiny(definitions::tiny()),
            flavour: Flavour::Cloud,
            file_system: FileSystem::Erofs,
            mkfs: "btrfs,ext4",
            policy: POLICY.to_owned(),
            options: OPTIONS.to_owned(),
            wrong_hash: false,
            signed: true,
            bytes: 1024 * MIB,
            bus: Bus::Virtio,
            tpm: Some(TpmModel::Crb),
        }
    }

    /// The real Debian: reports and powers off once it is up.
    #[must_use]
    pub fn debian(&'a self) -> System<'a> {
        System {
            content: Content::Debian,
            bytes: 4096 * MIB,
            ..self.tiny()
        }
        .option("check.poweroff=1")
    }

    /// A copy of a disk as it is now.
    pub fn snapshot(&self, disk: &Disk) -> Result<PathBuf> {
        let before = disk.path.with_extension("before.raw");
        copy(&disk.path, &before)?;
        Ok(before)
    }

    /// Holds if the disk has not one byte that it did not have at the time of the snapshot.
    pub fn unchanged(&self, disk: &Disk, snapshot: &Path) -> Result<()> {
        match evidence::first_difference(snapshot, &disk.path)? {
            None => Ok(()),
            Some(at) => Err(Error::Unexpected(format!(
                "{} was written to at byte {at}",
                disk.path.display()
            ))),
        }
    }

    /// Removes the disks: after success nobody looks at them any more.
    pub(crate) fn tidy(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir)
            .map_err(file("list", &self.dir))?
            .flatten()
        {
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "raw")
            {
                fs::remove_file(entry.path()).map_err(file("remove", &entry.path()))?;
            }
        }
        Ok(())
    }
}

/// What `/usr` holds.
#[derive(Clone)]
enum Content {
    Tiny(Vec<Definition>),
    Debian,
}

/// A system to be put on disks.
#[derive(Clone)]
pub struct System<'a> {
    bench: &'a Bench<'a>,
    content: Content,
    flavour: Flavour,
    file_system: FileSystem,
    mkfs: &'static str,
    policy: String,
    options: String,
    wrong_hash: bool,
    signed: bool,
    bytes: u64,
    bus: Bus,
    tpm: Option<TpmModel>,
}

impl System<'_> {
    /// With this kernel.
    #[must_use]
    pub fn flavour(mut self, flavour: Flavour) -> Self {
        self.flavour = flavour;
        self
    }

    /// With `/usr` in this file system.
    #[must_use]
    pub fn file_system(mut self, file_system: FileSystem) -> Self {
        self.file_system = file_system;
        self
    }

    /// With a UKI that carries no PCR signature.
    #[must_use]
    pub fn unsigned(mut self) -> Self {
        self.signed = false;
        self
    }

    /// With only these mkfs programs in the initrd (comma-separated, or `none`).
    #[must_use]
    pub fn mkfs(mut self, list: &'static str) -> Self {
        self.mkfs = list;
        self
    }

    /// With this line in `agent.toml` too.
    #[must_use]
    pub fn policy(mut self, line: &str) -> Self {
        self.policy.push_str(line);
        self.policy.push('\n');
        self
    }

    /// With this on the kernel command line too.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(' ');
        self.options.push_str(option);
        self
    }

    /// With one more partition definition; one of the same name is replaced.
    #[must_use]
    pub fn definition(mut self, name: &str, lines: &str) -> Self {
        if let Content::Tiny(all) = &mut self.content {
            all.retain(|definition| definition.name != name);
            all.push(Definition::new(name, lines));
        }
        self
    }

    /// With a root hash that the contents do not have; partitions and command line agree on it.
    #[must_use]
    pub fn wrong_hash(mut self) -> Self {
        self.wrong_hash = true;
        self
    }

    /// On disks of this size.
    #[must_use]
    pub fn disk_mib(mut self, mib: u64) -> Self {
        self.bytes = mib * MIB;
        self
    }

    /// On disks connected this way.
    #[must_use]
    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// On machines with this TPM, or none.
    #[must_use]
    pub fn tpm(mut self, tpm: Option<TpmModel>) -> Self {
        self.tpm = tpm;
        self
    }

    /// A factory-fresh disk with this name (a file of the scenario's directory).
    pub fn disk(&self, name: &str) -> Result<Disk> {
        let (usr, uki) = (self.usr()?, self.uki()?);
        let path = self.bench.dir.join(format!("{name}.raw"));
        fixtures::disk(&DiskSpec::new(self.bytes, &uki, &usr), &path).map_err(prepare("disk"))?;
        Ok(Disk::existing(&path).on(self.bus))
    }

    /// A factory-fresh machine that boots its one disk through UEFI.
    pub fn machine(&self) -> Result<Machine> {
        Ok(self.bare(Boot::Disk)?.disk(self.disk("disk")?))
    }

    /// A factory-fresh machine without disks that starts the kernel at once. For boots that end before anything is
    /// sealed: without firmware nothing was measured.
    pub fn direct(&self) -> Result<Machine> {
        let kernel = self.kernel()?;
        let initrd = self.bench.ctx.initrd(&kernel, self.mkfs, &self.policy)?;
        self.bare(Boot::Kernel {
            kernel: kernel.vmlinuz,
            initrd,
            cmdline: self.cmdline()?,
        })
    }

    /// A factory-fresh machine without disks that starts the UKI as firmware would, but from no ESP.
    pub fn handed_over(&self) -> Result<Machine> {
        self.bare(Boot::Uki(self.uki()?))
    }

    fn bare(&self, boot: Boot) -> Result<Machine> {
        Ok(Machine::fresh(&self.bench.dir.join("machine"), boot)?.tpm(self.tpm))
    }

    /// The UKI, its PCR 11 values signed for the initrd unless the system is an unsigned one.
    pub fn uki(&self) -> Result<PathBuf> {
        let (cache, kernel, usr) = (&self.bench.ctx.cache, self.kernel()?, self.usr()?);
        let initrd = self.bench.ctx.initrd(&kernel, self.mkfs, &self.policy)?;
        let key = fixtures::signing_key(cache, "scenarios").map_err(prepare("signing key"))?;
        let signing = Signing::initrd_only(&key);
        let signing = self.signed.then_some(&signing);
        let (cmdline, os_release) = (self.cmdline()?, &usr.os_release);
        let spec = UkiSpec {
            kernel: &kernel,
            initrd: &initrd,
            cmdline: &cmdline,
            os_release,
            signing,
        };
        fixtures::uki(cache, &spec).map_err(prepare("UKI"))
    }

    /// The image of `/usr`.
    pub fn usr(&self) -> Result<UsrImage> {
        let ctx = self.bench.ctx;
        let image = match &self.content {
            Content::Debian => fixtures::debian(&ctx.cache, self.flavour, self.file_system),
            Content::Tiny(definitions) => {
                let mut spec = TinySpec::new(&ctx.tiny_init);
                spec.file_system = self.file_system;
                spec.definitions.clone_from(definitions);
                fixtures::tiny(&ctx.cache, &spec)
            }
        };
        let mut image = image.map_err(prepare("/usr"))?;
        if self.wrong_hash {
            let first = if image.root_hash.starts_with('0') {
                "1"
            } else {
                "0"
            };
            image.root_hash.replace_range(..1, first);
        }
        Ok(image)
    }

    fn kernel(&self) -> Result<Kernel> {
        fixtures::kernel(&self.bench.ctx.cache, self.flavour).map_err(prepare("kernel"))
    }

    fn cmdline(&self) -> Result<String> {
        Ok(format!(
            "{} usrhash={}",
            self.options,
            self.usr()?.root_hash
        ))
    }
}
