//! The two EFI variables below one root directory: reading with a cap, deleting with a look back, writing in one call.
//!
//! efivarfs (Documentation/filesystems/efivarfs.rst): a file is 4 attribute bytes and the value; variables the kernel
//! does not know are immutable until the flag is cleared; a write(2) sets the whole variable, so there is exactly one.

use super::identity::Part;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// systemd's vendor GUID.
const VENDOR: &str = "8cf2644b-4b0b-428f-9387-6d876050dc67";
/// systemd 258 and later: JSON.
pub const REQUEST: &str = "FactoryResetRequest";
/// systemd up to 257: a boolean.
pub const LEGACY: &str = "FactoryReset";
/// Bytes of a value that is read; a request has about 300.
pub const LIMIT: usize = 8 * 1024;
/// Non-volatile, boot service access, runtime access.
const ATTRIBUTES: u32 = 7;
const NON_VOLATILE: u32 = 1;

/// What a variable holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// There is none, or no EFI.
    Absent,
    /// Its value.
    Value(Vec<u8>),
    /// Longer than anything that could be meant.
    Oversized,
    /// Shorter than its attributes.
    Truncated,
    /// It does not survive a reboot, so it is no request from before one.
    Volatile,
    /// The kernel or firmware refused.
    Unreadable(String),
}

/// What became of a variable that had to go.
#[derive(Debug)]
pub enum Deletion {
    /// There was none.
    Absent,
    /// It is gone.
    Deleted,
    /// It is still there. A warning, never a reason to fail: the partition table remembers.
    Refused(io::Error),
}

/// Why a request was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The machine was not started by UEFI, or efivarfs is not mounted.
    #[error(
        "no EFI variables at {0}: a request cannot be stored; boot with systemd.factory_reset=1 instead"
    )]
    NoEfi(PathBuf),
    /// The variable could not be written.
    #[error("EFI variable {path} cannot be written")]
    Write {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The firmware said yes and stored something else.
    #[error("EFI variable {0} does not read back as it was written")]
    ReadBack(PathBuf),
}

/// The variables of one machine.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Variables below `root`.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self {
            directory: root.join("sys/firmware/efi/efivars"),
        }
    }

    /// The file of a variable.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}-{VENDOR}"))
    }

    /// Reads one.
    #[must_use]
    pub fn read(&self, name: &str) -> Reading {
        let bytes = match read_capped(&self.path(name)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Reading::Absent,
            Err(error) => return Reading::Unreadable(error.to_string()),
        };
        let Some((attributes, value)) = bytes.split_first_chunk::<4>() else {
            return Reading::Truncated;
        };
        if u32::from_le_bytes(*attributes) & NON_VOLATILE == 0 {
            return Reading::Volatile;
        }
        if value.len() > LIMIT {
            return Reading::Oversized;
        }
        Reading::Value(value.to_vec())
    }

    /// Deletes one and looks whether it is gone.
    #[must_use]
    pub fn delete(&self, name: &str) -> Deletion {
        let path = self.path(name);
        match unlink(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Deletion::Absent,
            Err(error) => return Deletion::Refused(error),
        }
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Deletion::Deleted,
            Err(error) => Deletion::Refused(error),
            Ok(_) => Deletion::Refused(io::Error::other("deleted, and there again")),
        }
    }

    /// Writes `text` as a non-volatile variable, UTF-16 with a final NUL, in one call, and reads it back.
    ///
    /// # Errors
    /// No EFI, a refusal, or another value afterwards.
    pub fn write(&self, name: &str, text: &str) -> Result<(), WriteError> {
        if !self.directory.is_dir() {
            return Err(WriteError::NoEfi(self.directory.clone()));
        }
        let path = self.path(name);
        let value = encode(text);
        let mut bytes = ATTRIBUTES.to_le_bytes().to_vec();
        bytes.extend_from_slice(&value);
        write_once(&path, &bytes).map_err(|source| WriteError::Write {
            path: path.clone(),
            source,
        })?;
        if self.read(name) == Reading::Value(value) {
            Ok(())
        } else {
            Err(WriteError::ReadBack(path))
        }
    }

    /// Deletes the variables of `parts`. Returns those still there, and a text for each refusal.
    ///
    /// The legacy one goes first, and the other stays while it refuses: together they may be what the table remembers.
    #[must_use]
    pub fn consume(&self, parts: &[Part]) -> (Vec<Part>, Vec<String>) {
        let mut parts = parts.to_vec();
        parts.sort();
        let (mut remaining, mut refusals) = (Vec::new(), Vec::new());
        for part in parts {
            let Some(name) = part.variable() else {
                continue;
            };
            if !remaining.is_empty() {
                remaining.push(part);
            } else if let Deletion::Refused(error) = self.delete(name) {
                refusals.push(format!(
                    "EFI variable {name} cannot be deleted: {error}; the partition table remembers that it was obeyed"
                ));
                remaining.push(part);
            }
        }
        (remaining, refusals)
    }
}

/// UTF-16, little-endian, with a final NUL.
#[must_use]
pub fn encode(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// Text of a value: UTF-16, nothing but NUL behind a NUL. `None` for anything else.
#[must_use]
pub fn decode(value: &[u8]) -> Option<String> {
    if !value.len().is_multiple_of(2) {
        return None;
    }
    let units: Vec<u16> = value
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    let end = units
        .iter()
        .position(|unit| *unit == 0)
        .unwrap_or(units.len());
    if units[end..].iter().any(|unit| *unit != 0) {
        return None;
    }
    String::from_utf16(&units[..end]).ok()
}

fn read_capped(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    // One byte more than allowed tells an oversized value from the largest one.
    let limit = u64::try_from(LIMIT + 5).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn unlink(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // A file system that has no such flag, or refuses to change it, is told by the unlink itself.
    drop(sys::efivar::make_mutable(file.as_fd()));
    drop(file);
    std::fs::remove_file(path)
}

fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => drop(sys::efivar::make_mutable(file.as_fd())?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Truncating means nothing to efivarfs, where a write replaces the value, and all to any other file system.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let written = file.write(bytes)?;
    if written != bytes.len() {
        return Err(io::Error::new(io::ErrorKind::WriteZero, "written in part"));
    }
    file.sync_all().or_else(|error| match error.kind() {
        // efivarfs has no fsync; its write is synchronous.
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => Ok(()),
        _ => Err(error),
    })
}
