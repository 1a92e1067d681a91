//! LUKS2 volumes whose only way in is the TPM.
//!
//! [`format`] makes one, [`read`] opens one that exists; both give an [`Unlocked`], whose [`Unlocked::activate`]
//! measures the volume key and then maps the volume. In this order, and fatal if it fails (spec trust 12): a volume
//! that is mapped has been measured. [`create`] and [`open`] are the two halves together.
//!
//! That a volume unlocks proves nothing about who made it (2.7): anyone can seal a token to a public policy. PCR 15
//! tells a verifier which key was used.

mod format;
pub mod header;
pub mod metadata;
pub mod provenance;
mod read;
pub mod token;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac as _};
use libcryptsetup_rs::CryptDevice;
use libcryptsetup_rs::consts::flags::CryptActivate;
use zeroize::Zeroizing;

use crate::crypt::{CryptError, call};
use crate::eventlog::{Event, EventLog, MeasureError, PCR_VOLUME_KEYS};
use crate::mapping::{Mapping, MappingError};
use crate::tpm::{Bank, Signatures, Tpm, TpmError};

pub use format::{FormatRequest, SealedKey, format};
pub use header::HeaderError;
pub use metadata::Refusal;
pub use read::read;
pub use token::{Token, TokenError};

/// A volume was not made or not opened. Nothing is mapped then.
#[derive(Debug, thiserror::Error)]
pub enum LuksError {
    /// The partition cannot be opened or read.
    #[error("cannot read {device}")]
    Device {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no intact LUKS2 header.
    #[error("{device} is no LUKS2 volume")]
    Header {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: HeaderError,
    },
    /// The header is intact and says something that is not accepted: somebody tampered with it, or it is not ours.
    #[error("the LUKS2 header of {device} is refused")]
    Refused {
        /// The partition.
        device: PathBuf,
        /// What.
        source: Refusal,
    },
    /// The TPM does not give, or does not take, the secret.
    #[error("the TPM does not serve {device}")]
    Tpm {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: TpmError,
    },
    /// The TPM gave a secret that opens nothing.
    #[error("the secret from the TPM does not open {device}")]
    WrongSecret {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: CryptError,
    },
    /// The volume key was not measured.
    #[error("the key of {device} is not measured, so it is not used")]
    Measure {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: MeasureError,
    },
    /// libcryptsetup or the kernel refused.
    #[error("cannot set up {device}")]
    Crypt {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: CryptError,
    },
    /// The mapping has no node.
    #[error("{device} was mapped")]
    Node {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: MappingError,
    },
}

/// A volume whose key is known and which is not mapped yet. The key is wiped on drop.
pub struct Unlocked {
    device: CryptDevice,
    /// The judged copy of the header that `device` reads, if it is not the partition itself.
    _header: Option<OwnedFd>,
    path: PathBuf,
    uuid: String,
    key: Zeroizing<Vec<u8>>,
    /// `tpm2_srk` of the token.
    srk: Vec<u8>,
    discard: bool,
}

impl Unlocked {
    /// Measures the volume key into PCR 15 and maps the volume.
    ///
    /// # Errors
    /// [`LuksError::Measure`], before anything is mapped; [`LuksError::Crypt`], [`LuksError::Node`].
    pub fn activate(
        mut self,
        name: &str,
        tpm: &mut Tpm,
        log: &EventLog,
    ) -> Result<Mapping, LuksError> {
        let path = self.path.clone();
        self.measure(name, tpm, log)
            .map_err(|source| LuksError::Measure {
                device: path.clone(),
                source,
            })?;
        let flags = if self.discard {
            CryptActivate::ALLOW_DISCARDS
        } else {
            CryptActivate::empty()
        };
        let (device, key) = (&mut self.device, &self.key);
        call("activate dm-crypt", || {
            device
                .activate_handle()
                .activate_by_volume_key(Some(name), Some(key), flags)
        })
        .map_err(|source| LuksError::Crypt {
            device: path.clone(),
            source,
        })?;
        Mapping::find(name).map_err(|source| {
            drop(crate::close(name));
            LuksError::Node {
                device: path,
                source,
            }
        })
    }

    /// Without activating; for a caller that maps later, and for tests.
    ///
    /// # Errors
    /// [`MeasureError`].
    pub fn measure(&self, name: &str, tpm: &mut Tpm, log: &EventLog) -> Result<(), MeasureError> {
        let pcr = PCR_VOLUME_KEYS;
        let message = measured_message(name, &self.uuid);
        let banks = tpm
            .banks(pcr)
            .map_err(|source| MeasureError::Tpm { pcr, source })?;
        let digests: Vec<_> = banks
            .into_iter()
            .map(|bank| (bank, volume_key_digest(bank, &self.key, &message)))
            .collect();
        log.extend_digests(tpm, pcr, &digests, &Event::volume_key(&message))
    }

    /// The LUKS UUID.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }
}

/// Kernel modules of an encrypted volume. The processor's own AES comes first: a mapping keeps the cipher it began with.
pub const MODULES: [&str; 3] = ["aes", "dm-mod", "dm-crypt"];
/// The cipher as `/proc/crypto` names it, and the module that makes it of a plain AES where no driver brings it whole.
pub const CIPHER: (&str, &str) = ("xts(aes)", "xts");

/// Makes a volume and maps it.
///
/// # Errors
/// [`LuksError`].
pub fn create(
    request: &FormatRequest<'_>,
    name: &str,
    key: SealedKey,
    tpm: &mut Tpm,
    log: &EventLog,
) -> Result<Mapping, LuksError> {
    format(request, key)?.activate(name, tpm, log)
}

/// Opens a volume and maps it.
///
/// # Errors
/// [`LuksError`].
pub fn open(
    device: &Path,
    name: &str,
    tpm: &mut Tpm,
    signatures: Option<&Signatures>,
    log: &EventLog,
) -> Result<Mapping, LuksError> {
    read(device, tpm, signatures)?.activate(name, tpm, log)
}

/// What is measured about a volume besides its key: colons in the name are escaped, as they are the separator.
fn measured_message(name: &str, uuid: &str) -> String {
    format!(
        "cryptsetup:{}:{uuid}",
        name.replace('\\', "\\x5c").replace(':', "\\x3a")
    )
}

/// HMAC of the message, in the bank's hash, keyed with the volume key (spec trust 3.3).
fn volume_key_digest(bank: Bank, key: &[u8], message: &str) -> Vec<u8> {
    macro_rules! mac {
        ($hash:ty) => {
            // An HMAC takes keys of every length; the fallback is never reached.
            <Hmac<$hash>>::new_from_slice(key)
                .map(|mac| mac.chain_update(message).finalize().into_bytes().to_vec())
                .unwrap_or_default()
        };
    }
    match bank {
        Bank::Sha1 => mac!(sha1::Sha1),
        Bank::Sha256 => mac!(sha2::Sha256),
        Bank::Sha384 => mac!(sha2::Sha384),
        Bank::Sha512 => mac!(sha2::Sha512),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_key_measurement_is_systemds() {
        let key: Vec<u8> = (0..64).collect();
        let message = measured_message("root", "6f8b1c1e-0000-4000-8000-000000000001");
        assert_eq!(
            message,
            "cryptsetup:root:6f8b1c1e-0000-4000-8000-000000000001"
        );
        assert_eq!(
            hex::encode(volume_key_digest(Bank::Sha256, &key, &message)),
            "d4d6ad1a406416aedde3a611a1d7302289a40bdf034688e6faed180838394bf0"
        );
        assert_eq!(measured_message("a:b\\", "u"), "cryptsetup:a\\x3ab\\x5c:u");
    }
}
