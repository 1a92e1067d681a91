//! One file system, mounted and attached nowhere: it goes away with its descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::error::{Attempt, Error};
use crate::options::MountOptions;
use crate::probe;

/// A mounted file system.
#[derive(Debug)]
pub struct Mounted {
    /// The detached mount; dropping it unmounts.
    pub mount: OwnedFd,
    /// Its type.
    pub fstype: String,
}

/// Mounts `device` as the first of `fstypes` that fits; without any, as what its superblock says it is.
///
/// The kernel module of the type must be loaded: nobody answers the kernel's own request for it in the initramfs.
pub fn mount_device(
    device: &Path,
    fstypes: &[&str],
    options: &MountOptions,
) -> Result<Mounted, Error> {
    let found;
    let fstypes = if fstypes.is_empty() {
        let probed = probe::device(device).map_err(|source| Error::Probe {
            device: device.into(),
            source,
        })?;
        found = [probed.ok_or_else(|| Error::UnknownFileSystem {
            device: device.into(),
        })?];
        found.as_slice()
    } else {
        fstypes
    };
    let mut attempts = Vec::new();
    for &fstype in fstypes {
        match open(fstype, Some(device), options) {
            Ok(mount) => {
                return Ok(Mounted {
                    mount,
                    fstype: fstype.to_owned(),
                });
            }
            Err(attempt) => attempts.push(attempt),
        }
    }
    Err(Error::Mount {
        device: device.into(),
        attempts,
    })
}

/// Mounts a file system without a device, `tmpfs` for instance.
pub fn mount_virtual(fstype: &str, options: &MountOptions) -> Result<OwnedFd, Error> {
    open(fstype, None, options).map_err(|attempt| Error::Mount {
        device: fstype.into(),
        attempts: vec![attempt],
    })
}

/// `source`: the device; for a virtual file system its type stands there, as everybody is used to from mount tables.
pub(crate) fn open(
    fstype: &str,
    source: Option<&Path>,
    options: &MountOptions,
) -> Result<OwnedFd, Attempt> {
    let failed = |error: Errno, log| Attempt {
        fstype: fstype.to_owned(),
        log,
        error: error.into(),
    };
    let context =
        fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| failed(e, String::new()))?;
    configure(
        context.as_fd(),
        source.unwrap_or(Path::new(fstype)),
        options,
    )
    .map_err(|error| failed(error, log_of(context.as_fd())))
}

fn configure(
    context: BorrowedFd<'_>,
    source: &Path,
    options: &MountOptions,
) -> rustix::io::Result<OwnedFd> {
    fsconfig_set_string(context, "source", source)?;
    if options.is_read_only() {
        fsconfig_set_flag(context, "ro")?;
    }
    for (key, value) in &options.filesystem {
        match value {
            Some(value) => fsconfig_set_string(context, key.as_str(), value.as_str())?,
            None => fsconfig_set_flag(context, key.as_str())?,
        }
    }
    fsconfig_create(context)?;
    let attributes = MountAttrFlags::from_bits_retain(options.attributes.bits());
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// The kernel's messages about this context, without their level letters.
fn log_of(context: BorrowedFd<'_>) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut buffer = [0_u8; 1024];
    // The log is a ring of 8 messages; ENODATA ends it.
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        let text = text.trim();
        let message = text
            .split_once(' ')
            .filter(|(level, _)| matches!(*level, "e" | "w" | "i"))
            .map_or(text, |(_, m)| m);
        if length == 0 || lines.len() > 8 {
            break;
        }
        lines.push(message.to_owned());
    }
    lines.join("; ")
}

/// Adds attributes to a mount.
pub(crate) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: crate::Attributes,
) -> io::Result<()> {
    if attributes == crate::Attributes::NONE {
        return Ok(());
    }
    sys::mount::set_attributes(
        mount,
        attributes.bits().into(),
        attributes.mask().into(),
        false,
    )
}
