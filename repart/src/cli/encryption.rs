//! What the command line asks of whoever can encrypt: this crate knows neither LUKS nor TPMs.
//!
//! Invariant: [`Encryption::prepare`] has made or found every key before the first byte is written.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use crate::apply::ContentsError;
use crate::definition::Definition;
use crate::disk::Disk;
use crate::plan::PlannedPartition;

/// What the command line says about keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyOptions {
    /// `--key-file=`.
    pub key_file: Option<PathBuf>,
    /// `--tpm2-device=`: `auto`, or a path.
    pub tpm2_device: Option<String>,
    /// `--tpm2-pcrs=`.
    pub tpm2_pcrs: Option<String>,
    /// `--tpm2-public-key=`.
    pub tpm2_public_key: Option<PathBuf>,
    /// `--tpm2-public-key-pcrs=`.
    pub tpm2_public_key_pcrs: Option<String>,
}

/// The volume to make.
#[derive(Clone, Copy, Debug)]
pub struct EncryptRequest<'a> {
    /// The new partition; the volume takes all of it.
    pub partition: &'a PlannedPartition,
    /// Its definition: mode, `KeyFile=`, `TPM2PCRs=`, `EncryptKDF=`, `VolumeLabel=`.
    pub definition: &'a Definition,
    /// From the command line.
    pub options: &'a KeyOptions,
    /// Encryption sector size in bytes.
    pub sector_size: u32,
    /// Whether the volume passes discards on.
    pub discard: bool,
    /// A directory for a header in the making.
    pub directory: &'a std::path::Path,
}

impl EncryptRequest<'_> {
    /// The LUKS2 label (spec 1.5).
    #[must_use]
    pub fn label(&self) -> String {
        let set = self.definition.content.volume_label.clone();
        set.unwrap_or_else(|| format!("luks-{}", self.partition.label))
    }
}

/// Makes encrypted volumes without device-mapper.
pub trait Encryption {
    /// Bytes the header takes at the start of the partition.
    fn header_size(&self) -> u64;

    /// Makes and checks the keys.
    ///
    /// # Errors
    /// What is missing. Nothing was written then.
    fn prepare(&mut self, request: &EncryptRequest<'_>) -> Result<(), ContentsError>;

    /// Writes the header to the start of the partition and the encrypted `range` of `plain` behind it.
    ///
    /// # Errors
    /// Why not.
    fn encrypt(
        &mut self,
        request: &EncryptRequest<'_>,
        plain: &File,
        range: Range<u64>,
        disk: &mut dyn Disk,
    ) -> Result<(), ContentsError>;
}
