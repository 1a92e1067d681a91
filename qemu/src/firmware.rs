//! Where Debian 12 and 13 keep the UEFI firmware.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const CODE: &[&str] = &[
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_CODE.fd",
];

/// The read-only code volume and the template of the variables that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// The code volume.
    pub code: PathBuf,
    /// The empty variable store.
    pub vars: PathBuf,
}

/// Finds the firmware that this machine has installed.
pub fn find() -> Result<Firmware> {
    CODE.iter()
        .map(|code| Firmware {
            code: PathBuf::from(code),
            vars: PathBuf::from(code.replace("CODE", "VARS")),
        })
        .find(|pair| pair.code.exists() && Path::new(&pair.vars).exists())
        .ok_or(Error::NoFirmware { looked: CODE })
}
