//! Measurements of user space and the log that explains them: systemd's `tpm2-measure.log` (spec trust 3.5).
//!
//! Invariant: a record is in the log before its digest is in the PCR. The file's sticky bit says that a measurement is
//! under way, so that a verifier knows that the last record may not have been extended; it is taken away after.

use std::fs::{File, OpenOptions, Permissions, create_dir_all};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::tpm::{Bank, Tpm, TpmError};

/// Where the log is, below the root directory.
const LOG: &str = "run/log/systemd/tpm2-measure.log";
/// The PCR of volume keys.
pub const PCR_VOLUME_KEYS: u8 = 15;

/// A measurement was not made, or is not on record.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The log cannot be written; nothing was extended.
    #[error("cannot write the measurement log {path}")]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The TPM refused.
    #[error("PCR {pcr} was not extended")]
    Tpm {
        /// The PCR.
        pcr: u8,
        /// Why.
        source: TpmError,
    },
}

/// What a measurement is about; the strings are systemd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    kind: &'static str,
    text: String,
}

impl Event {
    /// A phase of the boot, such as `enter-initrd`. The word itself is what is measured.
    pub fn phase(word: &str) -> Self {
        Self {
            kind: "phase",
            text: word.to_owned(),
        }
    }

    /// The key of an encrypted volume; the text names it and never holds the key.
    pub fn volume_key(message: &str) -> Self {
        Self {
            kind: "volume-key",
            text: message.to_owned(),
        }
    }

    fn record(
        &self,
        pcr: u8,
        digests: &[(Bank, Vec<u8>)],
        boot_id: &str,
        timestamp: u64,
    ) -> io::Result<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Hash {
            hash_alg: &'static str,
            digest: String,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Content<'a> {
            string: &'a str,
            boot_id: &'a str,
            timestamp: u64,
            event_type: &'a str,
        }
        #[derive(Serialize)]
        struct Record<'a> {
            pcr: u8,
            digests: Vec<Hash>,
            content_type: &'static str,
            content: Content<'a>,
        }
        let record = Record {
            pcr,
            digests: digests
                .iter()
                .map(|(bank, d)| Hash {
                    hash_alg: bank.name(),
                    digest: hex::encode(d),
                })
                .collect(),
            content_type: "systemd",
            content: Content {
                string: &self.text,
                boot_id,
                timestamp,
                event_type: self.kind,
            },
        };
        let mut line = vec![0x1e];
        serde_json::to_writer(&mut line, &record)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// The log of the running boot.
#[derive(Debug, Clone)]
pub struct EventLog {
    path: PathBuf,
    boot_id: PathBuf,
}

impl EventLog {
    /// The log below a root directory (`/` at boot), whose `proc` tells the boot's id.
    pub fn below(root: &Path) -> Self {
        Self {
            path: root.join(LOG),
            boot_id: root.join("proc/sys/kernel/random/boot_id"),
        }
    }

    /// Measures bytes into every bank of a PCR.
    ///
    /// # Errors
    /// [`MeasureError`].
    pub fn extend(
        &self,
        tpm: &mut Tpm,
        pcr: u8,
        data: &[u8],
        event: Event,
    ) -> Result<(), MeasureError> {
        let banks = tpm
            .banks(pcr)
            .map_err(|source| MeasureError::Tpm { pcr, source })?;
        let digests: Vec<_> = banks
            .into_iter()
            .map(|bank| (bank, bank.digest(data)))
            .collect();
        self.extend_digests(tpm, pcr, &digests, &event)
    }

    /// Measures ready digests.
    ///
    /// # Errors
    /// [`MeasureError`].
    pub fn extend_digests(
        &self,
        tpm: &mut Tpm,
        pcr: u8,
        digests: &[(Bank, Vec<u8>)],
        event: &Event,
    ) -> Result<(), MeasureError> {
        let log = |source| MeasureError::Log {
            path: self.path.clone(),
            source,
        };
        let file = self.append(pcr, digests, event).map_err(log)?;
        tpm.extend(pcr, digests)
            .map_err(|source| MeasureError::Tpm { pcr, source })?;
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(log)
    }

    /// Appends a record and leaves the file locked and marked.
    fn append(&self, pcr: u8, digests: &[(Bank, Vec<u8>)], event: &Event) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            create_dir_all(directory)?;
        }
        let boot_id = std::fs::read_to_string(&self.boot_id)?
            .trim()
            .replace('-', "");
        let now = clock_gettime(ClockId::Boottime);
        let micros =
            now.tv_sec.unsigned_abs().saturating_mul(1_000_000) + now.tv_nsec.unsigned_abs() / 1000;
        let record = event.record(pcr, digests, &boot_id, micros)?;
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        file.set_permissions(Permissions::from_mode(0o1600))?;
        file.write_all(&record)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_what_systemd_writes() {
        let record = Event::phase("enter-initrd")
            .record(11, &[(Bank::Sha256, vec![0xab; 2])], "00ff", 5)
            .unwrap();
        assert_eq!(
            String::from_utf8(record).unwrap(),
            "\u{1e}{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\"abab\"}],\"content_type\":\"systemd\",\
             \"content\":{\"string\":\"enter-initrd\",\"bootId\":\"00ff\",\"timestamp\":5,\"eventType\":\"phase\"}}\n"
        );
    }
}
