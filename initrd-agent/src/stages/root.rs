//! `root`: the new root tree, complete before anybody sees it, and the program that will run in it.

use crate::agent::{Agent, Outcome};
use crate::failure::{Failure, Remedy, Stage};
use crate::stages::unlock::Unlocked;
use crate::trust::Trust;
use crate::volumes::{Role, Volume};
use rustix::fs::{Mode, OFlags, openat};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use switchroot::{Attributes, Init, MountOptions, NewRoot, Root, mount_device, mount_virtual};
use sys::process::Inherited;

/// Where the tree hangs while it is being built; nothing else looks there.
const STAGING: &str = "/sysroot";

/// A complete root and the program that was found fit to run in it.
#[derive(Debug)]
pub struct Assembled {
    /// The tree.
    pub root: Root,
    /// The real init.
    pub init: Init,
    /// For the real init.
    pub inherited: Inherited,
    /// The TPM, for the last measurement.
    pub trust: Option<Trust>,
}

impl Unlocked {
    /// Mounts everything and checks what can be checked before there is no way back.
    ///
    /// # Errors
    /// A file system that does not mount, an init that cannot run.
    pub fn assemble_root(self, agent: &mut Agent) -> Result<Assembled, Failure> {
        agent.stage(Stage::Root, |agent| {
            let Unlocked {
                mut boot,
                usr,
                mut volumes,
            } = self;
            volumes.sort_by_key(|volume| volume.role);
            for volume in &volumes {
                if let Ok(Some(name)) = switchroot::probe::device(&volume.node) {
                    boot.load_module(agent, name);
                }
            }
            let root = mount_root(agent, &volumes)?;
            let mut tree = NewRoot::new(root).mount("usr", usr, Attributes::RDONLY);
            for volume in &volumes {
                if let Some(at) = volume.role.mount_point() {
                    tree = tree.mount(at, mount_volume(agent, volume)?, Attributes::NONE);
                }
            }
            first_boot_marks(tree.fd()).map_err(|e| {
                Failure::new(
                    Stage::Root,
                    "root-unwritable",
                    "/etc/machine-id",
                    Remedy::TryAgain,
                    e,
                )
            })?;
            let root = agent
                .step("assemble", |_| tree.assemble(Path::new(STAGING)))
                .map_err(|e| {
                    Failure::new(
                        Stage::Root,
                        "root-unassembled",
                        "the new root",
                        Remedy::TryAgain,
                        e,
                    )
                })?;
            for volume in volumes.iter().filter(|v| v.role == Role::Swap) {
                swap_on(agent, volume);
            }
            let init = agent.cmdline.value("init").map(Path::new);
            let overrides: Vec<&Path> = init.into_iter().collect();
            let init = switchroot::check_init(&root, &overrides).map_err(|e| {
                Failure::new(
                    Stage::Root,
                    "init-unusable",
                    "the real init",
                    Remedy::FixImage,
                    e,
                )
            })?;
            let BootDiskParts { inherited, trust } = boot.into();
            Ok((
                Assembled {
                    root,
                    init,
                    inherited,
                    trust,
                },
                Outcome::Done,
            ))
        })
    }
}

/// What is still needed of the boot disk's stage; modules and events end here.
struct BootDiskParts {
    inherited: Inherited,
    trust: Option<Trust>,
}

impl From<crate::stages::devices::BootDisk> for BootDiskParts {
    fn from(boot: crate::stages::devices::BootDisk) -> Self {
        Self {
            inherited: boot.early.inherited,
            trust: boot.trust,
        }
    }
}

/// `root=tmpfs`, or the root volume.
fn mount_root(agent: &mut Agent, volumes: &[Volume]) -> Result<OwnedFd, Failure> {
    let failed = |error| {
        Failure::new(
            Stage::Root,
            "root-mount-failed",
            "the root file system",
            Remedy::TryAgain,
            error,
        )
    };
    let mut options = MountOptions::parse(agent.cmdline.value("rootflags").unwrap_or_default());
    match agent.cmdline.value("root") {
        Some("tmpfs") => {
            options
                .filesystem
                .push(("mode".to_owned(), Some("0755".to_owned())));
            return agent
                .step("mount tmpfs on /", |_| mount_virtual("tmpfs", &options))
                .map_err(failed);
        }
        None | Some("gpt-auto") => {}
        Some(other) => {
            let what =
                format!("root={other}: only gpt-auto (the default) and tmpfs are known here");
            return Err(Failure::plain(
                Stage::Root,
                "root-unsupported",
                what,
                Remedy::FixPolicy,
            ));
        }
    }
    let Some(volume) = volumes.iter().find(|volume| volume.role == Role::Root) else {
        let what = "the boot disk has no root partition, and no repart.d definition asks for one";
        return Err(Failure::plain(
            Stage::Root,
            "root-missing",
            what,
            Remedy::FixImage,
        ));
    };
    let read_only = volume.read_only || (agent.cmdline.has("ro") && !agent.cmdline.has("rw"));
    if read_only {
        options = options.read_only();
    }
    let types: Vec<String> = agent
        .cmdline
        .value("rootfstype")
        .map(str::to_owned)
        .into_iter()
        .collect();
    let types: Vec<&str> = types.iter().flat_map(|list| list.split(',')).collect();
    let mounted = agent
        .step(format!("mount {} on /", volume.node.display()), |_| {
            mount_device(&volume.node, &types, &options)
        })
        .map_err(failed)?;
    grow(agent, volume, mounted.mount.as_fd());
    Ok(mounted.mount)
}

fn mount_volume(agent: &mut Agent, volume: &Volume) -> Result<OwnedFd, Failure> {
    let name = volume.role.name();
    let mut options = MountOptions::parse("nodev");
    if volume.read_only {
        options = options.read_only();
    }
    let mounted = agent
        .step(
            format!("mount {} on /{name}", volume.node.display()),
            |_| mount_device(&volume.node, &[], &options),
        )
        .map_err(|error| {
            let what = format!("the {name} file system");
            Failure::new(
                Stage::Root,
                "volume-mount-failed",
                what,
                Remedy::TryAgain,
                error,
            )
        })?;
    grow(agent, volume, mounted.mount.as_fd());
    Ok(mounted.mount)
}

/// Fills the partition (GPT attribute 59). A file system that stays smaller still works.
fn grow(agent: &mut Agent, volume: &Volume, mount: BorrowedFd<'_>) {
    if !volume.grow || volume.read_only {
        return;
    }
    let grown = agent.step(format!("grow {}", volume.role.name()), |_| {
        sys::filesystem::grow(mount, &volume.node)
    });
    if let Err(error) = grown {
        agent.warn(
            "grow-failed",
            format!(
                "the {} file system stays smaller: {error}",
                volume.role.name()
            ),
        );
    }
}

fn swap_on(agent: &mut Agent, volume: &Volume) {
    let on = agent.step("swap on", |_| {
        sys::swap::on(&volume.node, sys::swap::Discard::Never)
    });
    if let Err(error) = on {
        agent.warn(
            "swap-off",
            format!("{} cannot be used as swap: {error}", volume.node.display()),
        );
    }
}

/// On a root without `/etc/machine-id` writes `uninitialized`: to systemd that is the first boot (machine-id(5)).
fn first_boot_marks(root: BorrowedFd<'_>) -> std::io::Result<()> {
    match rustix::fs::mkdirat(root, "etc", Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(rustix::io::Errno::ROFS) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let directory = openat(
        root,
        "etc",
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&directory, "machine-id", flags, Mode::from_raw_mode(0o444)) {
        Ok(file) => std::fs::File::from(file).write_all(b"uninitialized\n"),
        Err(rustix::io::Errno::EXIST | rustix::io::Errno::ROFS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_first_boot_is_marked_once_and_an_id_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        first_boot_marks(root.as_fd()).unwrap();
        let path = dir.path().join("etc/machine-id");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "uninitialized\n");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "0123\n").unwrap();
        first_boot_marks(root.as_fd()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "0123\n");
    }
}
