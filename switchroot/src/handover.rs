//! The point of no return (`spec/trust.md` 9.1, 9.2).
//!
//! Order: all that can fail and be undone; the API mounts move over; the new root moves onto `/`; the initramfs is
//! deleted; `exec`. rootfs cannot be pivoted away, so the new root is moved over it and entered with chroot.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree};
use rustix::process::{chdir, chroot, fchdir};
use sys::process::Inherited;

use crate::error::HandoverError;
use crate::init::Init;
use crate::root::Root;
use crate::step::attach;
use crate::{beneath, free};

/// What moves along, where it is mounted.
const MOVED: [&str; 4] = ["dev", "proc", "sys", "run"];

/// Makes `root` the root of the machine and `init` its PID 1, with `arguments` after its name.
///
/// `inherited` is what the kernel gave us. The successor gets: descriptors 0 to 2, default signals, the inherited limits
/// and umask, an empty session keyring, and of the environment `TERM` only. Secrets in memory, children, and the TPM's
/// `leave-initrd` are the caller's, before.
pub fn handover(
    mut root: Root,
    init: &Init,
    arguments: &[OsString],
    inherited: &Inherited,
) -> Result<Infallible, HandoverError> {
    let mut program = command(init, arguments);
    let old = step("prepare the process", prepare(inherited))?;
    let in_memory = step("look at the initramfs", free::is_in_memory(old.as_fd()))?;
    move_api_mounts(&root)?;
    // From here on the staging directory is not what it was.
    root.keep();
    if let Err(source) = enter(&root) {
        return Err(HandoverError::Committed {
            operation: "enter the new root".to_owned(),
            source,
        });
    }
    if in_memory {
        free::empty(old.as_fd());
    }
    let source = program.exec();
    Err(HandoverError::Committed {
        operation: format!("run {}", init.path().display()),
        source,
    })
}

fn step<T>(operation: &str, result: io::Result<T>) -> Result<T, HandoverError> {
    result.map_err(|source| HandoverError::Intact {
        operation: operation.to_owned(),
        source,
    })
}

fn command(init: &Init, arguments: &[OsString]) -> Command {
    let mut program = Command::new(init.path());
    program.args(arguments).env_clear();
    if let Some(term) = std::env::var_os("TERM") {
        program.env("TERM", term);
    }
    program
}

/// Everything about the process itself. Returns the initramfs' root directory, by which it can be reached later.
fn prepare(inherited: &Inherited) -> io::Result<OwnedFd> {
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?;
    let old = openat(
        CWD,
        "/",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    inherited.restore()?;
    match std::fs::write("/proc/self/oom_score_adj", "0") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sys::keyring::new_session()?;
    sys::process::close_on_exec_from(3)?;
    sys::process::default_signals()?;
    Ok(old)
}

/// Moves them; if one fails, moves back those before it.
fn move_api_mounts(root: &Root) -> Result<(), HandoverError> {
    let mut moved: Vec<(&str, OwnedFd)> = Vec::new();
    for name in MOVED {
        match move_one(root.fd(), name) {
            Ok(None) => {}
            Ok(Some(mount)) => moved.push((name, mount)),
            Err(source) => {
                for (name, mount) in moved.iter().rev() {
                    // A second failure leaves it in the new root, where it still works; the first is what is reported.
                    move_back(mount.as_fd(), name).ok();
                }
                return Err(HandoverError::Intact {
                    operation: format!("move /{name} to the new root"),
                    source,
                });
            }
        }
    }
    Ok(())
}

/// `None`: it is not mounted here, or the new root has its own.
fn move_one(root: BorrowedFd<'_>, name: &str) -> io::Result<Option<OwnedFd>> {
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_NO_AUTOMOUNT;
    let mount = match open_tree(CWD, Path::new("/").join(name), flags) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let target = beneath::directory(root, Path::new(name))?;
    if !beneath::is_mount_point(mount.as_fd())? || beneath::is_mount_point(target.as_fd())? {
        return Ok(None);
    }
    attach(mount.as_fd(), target.as_fd())?;
    Ok(Some(mount))
}

fn move_back(mount: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = openat(CWD, Path::new("/").join(name), flags, Mode::empty())?;
    attach(mount, target.as_fd())
}

fn enter(root: &Root) -> io::Result<()> {
    let here = openat(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    fchdir(root.fd())?;
    attach(root.fd(), here.as_fd())?;
    chroot(".")?;
    Ok(chdir("/")?)
}
