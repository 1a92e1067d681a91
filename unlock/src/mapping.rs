//! A device-mapper device that is active.

use std::path::{Path, PathBuf};

use libcryptsetup_rs::CryptInit;
use libcryptsetup_rs::consts::flags::CryptDeactivate;
use rustix::fs::{major, minor, stat};

use crate::crypt::{CryptError, call};

/// An active mapping and its node in `/dev/mapper`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The device-mapper name.
    pub name: String,
    /// `/dev/mapper/NAME`.
    pub path: PathBuf,
    /// Device numbers, major and minor.
    pub devnum: (u32, u32),
}

/// The mapping is active but its node is not there.
#[derive(Debug, thiserror::Error)]
#[error("no device node {path} after activation")]
pub struct MappingError {
    path: PathBuf,
    source: std::io::Error,
}

impl Mapping {
    /// Finds the node of an active mapping.
    ///
    /// # Errors
    /// libdevmapper makes the node itself; without devtmpfs on `/dev` there is none.
    pub(crate) fn find(name: &str) -> Result<Self, MappingError> {
        let path = Path::new("/dev/mapper").join(name);
        match stat(&path) {
            Ok(stat) => Ok(Self {
                name: name.to_owned(),
                path,
                devnum: (major(stat.st_rdev), minor(stat.st_rdev)),
            }),
            Err(source) => Err(MappingError {
                path,
                source: source.into(),
            }),
        }
    }
}

/// Removes a mapping.
///
/// # Errors
/// It does not exist, or somebody has it open.
pub fn close(name: &str) -> Result<(), CryptError> {
    let mut device = call("find the mapping", || {
        CryptInit::init_by_name_and_header(name, None)
    })?;
    call("remove the mapping", || {
        device
            .activate_handle()
            .deactivate(name, CryptDeactivate::empty())
    })
}
