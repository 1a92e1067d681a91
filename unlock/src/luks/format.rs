//! Making a volume: sealed first and verified, formatted after, so that a TPM that refuses leaves the disk alone.

use std::fs::File;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libcryptsetup_rs::consts::flags::{CryptActivate, CryptPbkdf, CryptVolumeKey};
use libcryptsetup_rs::consts::vals::{CryptKdf, EncryptionFormat, KeyslotsSize, MetadataSize};
use libcryptsetup_rs::{
    CryptInit, CryptParamsLuks2, CryptParamsLuks2Ref, CryptPbkdfType, Either, TokenInput,
};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::metadata::KEY_BYTES;
use super::token::Token;
use super::{LuksError, Unlocked};
use crate::crypt::call;
use crate::tpm::{PcrPolicy, Sealed, Secret, Signatures, Tpm, TpmError, fill_random};

/// Where the data begins, in sectors of 512: 2 MiB. libcryptsetup's default of 16 MiB takes three times as long, since
/// the key slots are filled with random bytes.
const DATA_OFFSET: u64 = 4096;
/// Room for four key slots.
const KEYSLOTS: u64 = 1024 * 1024;
/// The passphrase is random, so the derivation needs no cost (as systemd-cryptenroll).
const ITERATIONS: u32 = 1000;
/// The TPM's slot.
const SLOT: u32 = 0;

/// The volume to make. Cipher and key are always aes-xts-plain64 with 512 bits.
#[derive(Debug)]
pub struct FormatRequest<'a> {
    /// The partition. What is on it is lost.
    pub device: &'a Path,
    /// LUKS UUID.
    pub uuid: [u8; 16],
    /// LUKS label.
    pub label: Option<&'a str>,
    /// Encryption sector size in bytes, 512 to 4096.
    pub sector_size: u32,
    /// Lets discards through, now and (stored in the header) whenever it is opened: shows which blocks are in use.
    pub discard: bool,
}

/// The keys of a volume that is yet to be made: its volume key and its passphrase, the latter sealed and unsealed once to
/// try. Wiped on drop.
pub struct SealedKey {
    volume_key: Zeroizing<Vec<u8>>,
    secret: Secret,
    sealed: Sealed,
}

impl SealedKey {
    /// Makes and seals them. Nothing is written to any disk, so that a TPM that refuses leaves the disk alone.
    ///
    /// # Errors
    /// The TPM refuses, or does not give back what it has just sealed.
    pub fn new(
        tpm: &mut Tpm,
        policy: &PcrPolicy,
        signatures: Option<&Signatures>,
    ) -> Result<Self, TpmError> {
        let mut volume_key = Zeroizing::new(vec![0; usize::try_from(KEY_BYTES).unwrap_or(64)]);
        fill_random(&mut volume_key).map_err(|source| TpmError::Random { source })?;
        let secret = Secret::random()?;
        let sealed = tpm.seal(&secret, policy)?;
        if !tpm.unseal(&sealed, signatures)?.equals(&secret) {
            return Err(TpmError::Answer {
                what: "another secret than it has just sealed",
            });
        }
        Ok(Self {
            volume_key,
            secret,
            sealed,
        })
    }

    pub(super) fn volume_key(&self) -> &[u8] {
        &self.volume_key
    }

    pub(super) fn sealed(&self) -> &Sealed {
        &self.sealed
    }
}

/// Formats the partition and enrols the key. The volume is not mapped.
///
/// # Errors
/// [`LuksError`].
pub fn format(request: &FormatRequest<'_>, key: SealedKey) -> Result<Unlocked, LuksError> {
    let path = request.device;
    let srk = key.sealed.srk.clone();
    let device = write(
        request,
        &key.volume_key,
        &passphrase(&key.secret),
        key.sealed,
    )?;
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| LuksError::Device {
            device: path.to_owned(),
            source,
        })?;
    let uuid = Uuid::from_bytes(request.uuid).to_string();
    Ok(Unlocked {
        device,
        _header: None,
        path: path.to_owned(),
        uuid,
        key: key.volume_key,
        srk,
        discard: request.discard,
    })
}

/// The passphrase of a sealed secret, as every tool derives it.
pub(super) fn passphrase(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(secret.bytes()))
}

fn write(
    request: &FormatRequest<'_>,
    key: &[u8],
    passphrase: &str,
    sealed: Sealed,
) -> Result<libcryptsetup_rs::CryptDevice, LuksError> {
    let crypt = |source| LuksError::Crypt {
        device: request.device.to_owned(),
        source,
    };
    let token = Token {
        keyslot: SLOT,
        sealed,
    };
    let token = token.to_json().map_err(|error| LuksError::Refused {
        device: request.device.to_owned(),
        source: super::Refusal::Token(error),
    })?;
    let mut device =
        call("open the partition", || CryptInit::init(request.device)).map_err(crypt)?;
    call("prepare LUKS2 parameters", || {
        let keyslots = KeyslotsSize::try_from(KEYSLOTS)?;
        device
            .settings_handle()
            .set_metadata_size(MetadataSize::try_from(0x4000u64)?, keyslots)?;
        device.settings_handle().set_pbkdf_type(&pbkdf())?;
        device.set_data_offset(DATA_OFFSET)
    })
    .map_err(crypt)?;
    call("format LUKS2", || {
        let parameters = CryptParamsLuks2 {
            pbkdf: Some(pbkdf()),
            integrity: None,
            integrity_params: None,
            data_alignment: 0,
            data_device: None,
            sector_size: request.sector_size,
            label: request.label.map(str::to_owned),
            subsystem: None,
        };
        let mut parameters: CryptParamsLuks2Ref<'_> = (&parameters).try_into()?;
        device.context_handle().format(
            EncryptionFormat::Luks2,
            ("aes", "xts-plain64"),
            Some(Uuid::from_bytes(request.uuid)),
            Either::Left(key),
            Some(&mut parameters),
        )
    })
    .map_err(crypt)?;
    call("add the key slot", || {
        let key = Some(Either::Left(key));
        device.keyslot_handle().add_by_key(
            Some(SLOT),
            key,
            passphrase.as_bytes(),
            CryptVolumeKey::empty(),
        )
    })
    .map_err(crypt)?;
    call("add the token", || {
        device.token_handle().json_set(TokenInput::AddToken(&token))
    })
    .map_err(crypt)?;
    if request.discard {
        call("store the discard flag", || {
            device
                .luks2_flag_handle::<CryptActivate>()
                .persistent_flags_set(CryptActivate::ALLOW_DISCARDS)
        })
        .map_err(crypt)?;
    }
    Ok(device)
}

/// Given before the format: otherwise the library benchmarks Argon2 for two seconds.
fn pbkdf() -> CryptPbkdfType {
    CryptPbkdfType {
        type_: CryptKdf::Pbkdf2,
        hash: Some("sha512".to_owned()),
        time_ms: 0,
        iterations: ITERATIONS,
        max_memory_kb: 0,
        parallel_threads: 0,
        flags: CryptPbkdf::NO_BENCHMARK,
    }
}
