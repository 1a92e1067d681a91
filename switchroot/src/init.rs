//! The program that becomes PID 1, looked at before the point of no return: once the initramfs is deleted, an `exec`
//! that fails is a dead machine.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, fstatvfs};

use crate::error::Error;
use crate::root::Root;

const DEFAULTS: [&str; 2] = ["/usr/lib/systemd/systemd", "/sbin/init"];
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// A program of the new root that was found fit to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Init {
    path: PathBuf,
}

impl Init {
    /// Its path in the new root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Chooses the new PID 1: the first of `overrides` (`init=`) that can run or, only if there are none, systemd and then
/// `/sbin/init`. Whoever names an init wants that one: none of them running is an error, not a reason to take another.
/// A shell is never tried.
pub fn check_init(root: &Root, overrides: &[&Path]) -> Result<Init, Error> {
    if !OS_RELEASE
        .iter()
        .any(|path| root.open(Path::new(path)).is_ok())
    {
        return Err(Error::NotAnOsTree);
    }
    let defaults = DEFAULTS.map(Path::new);
    let candidates = if overrides.is_empty() {
        &defaults[..]
    } else {
        overrides
    };
    let mut refused = Vec::new();
    for path in candidates {
        match runnable(root, path) {
            Ok(()) => {
                return Ok(Init {
                    path: path.to_path_buf(),
                });
            }
            Err(reason) => refused.push(format!("{}: {reason}", path.display())),
        }
    }
    Err(Error::NoInit { refused })
}

/// Everything the kernel looks at in `exec`, short of reading the whole program.
fn runnable(root: &Root, path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err("not an absolute path".to_owned());
    }
    let mut file = executable(root, path)?;
    let mut head = Vec::with_capacity(256);
    (&mut file)
        .take(256)
        .read_to_end(&mut head)
        .map_err(|e| e.to_string())?;
    let interpreter = match head.as_slice() {
        [0x7f, b'E', b'L', b'F', ..] => elf_interpreter(&file, &head)?,
        [b'#', b'!', line @ ..] => Some(script_interpreter(line)?),
        _ => return Err("neither an ELF program nor a script".to_owned()),
    };
    match interpreter {
        Some(interpreter) => executable(root, &interpreter)
            .map(|_| ())
            .map_err(|reason| format!("its interpreter {}: {reason}", interpreter.display())),
        None => Ok(()),
    }
}

fn executable(root: &Root, path: &Path) -> Result<File, String> {
    let file = root.open(path).map_err(|e| e.to_string())?;
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("not a regular file".to_owned());
    }
    if meta.mode() & 0o111 == 0 {
        return Err("not executable".to_owned());
    }
    let mount = fstatvfs(file.as_fd()).map_err(|e| e.to_string())?;
    if mount.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        return Err("on a file system mounted noexec".to_owned());
    }
    Ok(file)
}

fn script_interpreter(line: &[u8]) -> Result<PathBuf, String> {
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
    let text = std::str::from_utf8(line)
        .map_err(|_| "a script with an unreadable first line".to_owned())?;
    text.split_whitespace()
        .next()
        .map(PathBuf::from)
        .ok_or_else(|| "a script without an interpreter".to_owned())
}

const PT_INTERP: u32 = 3;
/// `e_machine` of what this program itself runs on.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") {
    183
} else if cfg!(target_arch = "riscv64") {
    243
} else {
    62
};

/// The dynamic linker an ELF program names, if it names one. 64 bit, little endian, as all machines we run on.
fn elf_interpreter(file: &File, head: &[u8]) -> Result<Option<PathBuf>, String> {
    let broken = || "a broken ELF program".to_owned();
    if head.get(4..6) != Some(&[2, 1]) || u16_at(head, 18) != Some(MACHINE) {
        return Err("an ELF program for another machine".to_owned());
    }
    let table = u64_at(head, 32).ok_or_else(broken)?;
    let entry = u16_at(head, 54)
        .filter(|size| *size == 56)
        .ok_or_else(broken)?;
    let count = u16_at(head, 56).ok_or_else(broken)?;
    for index in 0..count {
        let mut header = [0_u8; 56];
        let at = table
            .checked_add(u64::from(entry) * u64::from(index))
            .ok_or_else(broken)?;
        file.read_exact_at(&mut header, at).map_err(|_| broken())?;
        if u32_at(&header, 0) == Some(PT_INTERP) {
            let at = u64_at(&header, 8).ok_or_else(broken)?;
            let length = u64_at(&header, 32)
                .and_then(|l| usize::try_from(l).ok())
                .ok_or_else(broken)?;
            let mut name = vec![0_u8; length.min(4096)];
            file.read_exact_at(&mut name, at).map_err(|_| broken())?;
            let text = name
                .split(|b| *b == 0)
                .next()
                .and_then(|n| std::str::from_utf8(n).ok())
                .ok_or_else(broken)?;
            return Ok(Some(text.into()));
        }
    }
    Ok(None)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..at + 8)?
        .try_into()
        .ok()
        .map(u64::from_le_bytes)
}
