//! `initrd-agent install`: this system onto another disk, beside what is there.
//!
//! Order: everything is decided and refused first; new partitions are filled, flushed and read back; the table names
//! them; boot files are added to boot volumes that were there before, so that no menu offers what is not there yet.
//! A cut at any moment leaves what was there, and the next run finishes the job. Spec: repart.md, issue "Installer".

mod args;
mod choose;
mod contents;
mod error;
mod fat;
mod format;
mod host;
mod place;
mod progress;
mod sets;
mod source;
#[cfg(test)]
mod tests;
mod uki;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use repart::{BlockDevice, Disk, Guid, TableState, apply, observe};
use rustix::fs::{Advice, FlockOperation, fadvise, flock, major, minor};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::efi::Variables;
use args::{Options, Request};
use choose::{Choice, choose};
use contents::{Installer, Target};
pub use error::{InstallError, Refusal, Unfit};
pub use fat::FatError;
use host::Host;
pub use progress::Progress;
use source::Source;

/// Runs `initrd-agent install ARGS`; the plan goes to `out`, progress to standard error.
///
/// # Errors
/// [`InstallError`]; its `exit_code` is the tool's.
pub fn run(args: &[OsString], out: &mut dyn Write) -> Result<(), InstallError> {
    let options = match args::parse(args)? {
        Request::Help => return print(out, args::HELP),
        Request::Install(options) => options,
    };
    let host = Host::below(Path::new("/"));
    let number = refuse_own(&options, &host)?;
    let source = open_source(&options, &host)?;
    let mut disk = BlockDevice::open(&options.disk, !options.dry_run, options.sector_size)
        .map_err(|source| InstallError::Open {
            path: options.disk.clone(),
            source,
        })?;
    if !options.dry_run {
        // The lock that udev and systemd's tools respect: nobody probes or formats meanwhile.
        flock(disk.file(), FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .map_err(InstallError::io(format!("lock {}", options.disk.display())))?;
    }
    let sets = sets::load(
        &options.definitions,
        &options.fallback,
        options.boot_size,
        &source,
    )?;
    let name = options.disk.display().to_string();
    let choice = choose(&disk, &name, &source, &sets, random()?)?;
    if let Some(number) = &number {
        refuse_mounted(&choice, &host, number)?;
    }
    print(out, &choice.to_string())?;
    if options.dry_run {
        return print(out, "nothing was written (--dry-run)\n");
    }
    confirm(&choice, &name, options.yes, out)?;
    let mut progress = Progress::new(Box::new(io::stderr()), io::stderr().is_terminal());
    let target = Medium::of(&disk)?;
    let done = carry_out(&choice, &mut disk, &source, &target, &mut progress)?;
    print(
        out,
        if done {
            "installed\n"
        } else {
            "everything was there already\n"
        },
    )
}

/// Carries out what was decided. False: everything was there.
fn carry_out(
    choice: &Choice,
    disk: &mut impl Disk,
    source: &Source,
    target: &dyn Target,
    progress: &mut Progress,
) -> Result<bool, InstallError> {
    progress.start(Installer::total(&choice.plan, &choice.placement, source));
    let placement = &choice.placement;
    let mut installer = Installer {
        source,
        placement,
        target,
        progress,
    };
    let outcome = apply(&choice.plan, disk, &mut installer)?;
    let mut changed = outcome == repart::Outcome::Changed;
    for volume in placement.volumes.iter().filter(|volume| !volume.created) {
        changed |= volume.missing().next().is_some();
        installer
            .fill(disk, volume)
            .map_err(|source| InstallError::Files {
                number: volume.number,
                source,
            })?;
    }
    progress.end();
    Ok(changed)
}

/// The target's device number, if it is a device and may be written to.
fn refuse_own(options: &Options, host: &Host) -> Result<Option<String>, InstallError> {
    let path = &options.disk;
    let fail = |source| InstallError::Open {
        path: path.clone(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(fail)?;
    let own = |what: String| InstallError::OwnDisk {
        disk: path.display().to_string(),
        what,
    };
    if let Some(from) = &options.source {
        let other = std::fs::metadata(from).map_err(|source| InstallError::Open {
            path: from.clone(),
            source,
        })?;
        let identity = |it: &std::fs::Metadata| {
            if it.rdev() == 0 {
                (it.dev(), it.ino())
            } else {
                (0, it.rdev())
            }
        };
        if identity(&other) == identity(&metadata) {
            return Err(own("it is the source".to_owned()));
        }
    }
    if metadata.rdev() == 0 {
        return Ok(None);
    }
    let number = format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
    if host.is_partition(&number) {
        return Err(InstallError::Partition { path: path.clone() });
    }
    match host
        .runs_from(&number)
        .map_err(InstallError::io("read the mount table"))?
    {
        Some(what) => Err(own(what)),
        None => Ok(Some(number)),
    }
}

fn refuse_mounted(choice: &Choice, host: &Host, number: &str) -> Result<(), InstallError> {
    let changed = choice
        .placement
        .volumes
        .iter()
        .filter(|it| it.missing().next().is_some());
    for volume in changed {
        let place = host
            .mounted_at(number, volume.number)
            .map_err(InstallError::io("read the mount table"))?;
        if let Some(place) = place {
            return Err(InstallError::Mounted {
                number: volume.number,
                place,
            });
        }
    }
    Ok(())
}

fn open_source(options: &Options, host: &Host) -> Result<Source, InstallError> {
    let open = |path: &Path| {
        let disk = BlockDevice::open(path, false, None).map_err(|source| InstallError::Open {
            path: path.to_owned(),
            source,
        })?;
        settle(&disk, path)?;
        Ok::<_, InstallError>(Box::new(disk))
    };
    if let Some(path) = &options.source {
        let name = path.display().to_string();
        return Source::inspect(open(path)?, &name, options.usrhash, None);
    }
    let refuse = |why: String| InstallError::Source {
        disk: "the running system".to_owned(),
        why,
    };
    let (device, lower) = host.usr_disk().map_err(refuse)?;
    let path = PathBuf::from("/dev").join(&device.name);
    let disk = open(&path)?;
    let usrhash = match options.usrhash {
        Some(hash) => hash,
        None => running_hash(&*disk, host, &lower).map_err(refuse)?,
    };
    let esp = Variables::below(Path::new("/")).boot_partition();
    Source::inspect(
        disk,
        &path.display().to_string(),
        Some(usrhash),
        esp.as_deref(),
    )
}

/// The root hash of what runs: its halves are the UUIDs of the partitions below `/dev/mapper/usr`.
fn running_hash(disk: &dyn Disk, host: &Host, lower: &[String]) -> Result<[u8; 32], String> {
    let snapshot = observe(disk).map_err(|error| error.to_string())?;
    let TableState::Gpt(gpt) = &snapshot.table else {
        return Err("its disk has no GPT".to_owned());
    };
    let mut hash = [0; 32];
    let halves = [
        (0, repart::Designator::Usr),
        (16, repart::Designator::UsrVerity),
    ];
    for (at, designator) in halves {
        let numbers = lower.iter().filter_map(|name| host.partition_number(name));
        let entry = numbers
            .filter_map(|number| gpt.table.entry(number))
            .find(|entry| entry.partition_type.designator() == designator)
            .ok_or_else(|| format!("no {designator:?} partition is below /dev/mapper/usr"))?;
        hash[at..at + 16].copy_from_slice(entry.guid.bytes());
    }
    Ok(hash)
}

/// A mounted ESP may have newer data in the kernel's memory than the whole disk shows.
fn settle(disk: &BlockDevice, path: &Path) -> Result<(), InstallError> {
    if disk.is_block() {
        rustix::fs::sync();
        sys::block::flush_buffers(disk.file().as_fd()).map_err(InstallError::io(format!(
            "empty the cache of {}",
            path.display()
        )))?;
    }
    Ok(())
}

/// Other systems are on the disk: somebody has to say yes.
fn confirm(
    choice: &Choice,
    disk: &str,
    yes: bool,
    out: &mut dyn Write,
) -> Result<(), InstallError> {
    if yes || choice.others == 0 {
        return Ok(());
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(InstallError::Unconfirmed {
            disk: disk.to_owned(),
            count: choice.others,
        });
    }
    print(
        out,
        &format!(
            "{disk} holds {} partitions of other systems, which are kept. Type yes to install: ",
            choice.others
        ),
    )?;
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(InstallError::io("read the answer"))?;
    if answer.trim() == "yes" {
        Ok(())
    } else {
        Err(InstallError::Declined)
    }
}

fn print(out: &mut dyn Write, text: &str) -> Result<(), InstallError> {
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(InstallError::io("print"))
}

fn random() -> Result<Guid, InstallError> {
    let mut bytes = [0; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())
        .map_err(io::Error::from)
        .map_err(InstallError::io("get random numbers"))?;
    Ok(Guid::from_bytes(bytes))
}

/// A block device or an image file.
struct Medium {
    file: File,
    is_block: bool,
}

impl Medium {
    fn of(disk: &BlockDevice) -> Result<Self, InstallError> {
        let file = disk
            .file()
            .try_clone()
            .map_err(InstallError::io("keep the disk open"))?;
        Ok(Self {
            file,
            is_block: disk.is_block(),
        })
    }
}

impl Target for Medium {
    fn forget(&self) -> io::Result<()> {
        if self.is_block {
            return sys::block::flush_buffers(self.file.as_fd());
        }
        Ok(fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }

    fn announce(&self, number: u32, offset: u64, size: u64) -> io::Result<()> {
        if !self.is_block {
            return Ok(());
        }
        sys::block::add_partition(self.file.as_fd(), number, offset, size)
    }
}
