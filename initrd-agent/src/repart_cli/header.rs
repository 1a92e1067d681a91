//! The LUKS2 header, by libcryptsetup, in a sparse file of the partition's size.
//!
//! Here and not through `unlock::luks::format`: that one knows volumes whose only way in is the TPM.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libcryptsetup_rs::consts::flags::{CryptActivate, CryptPbkdf, CryptVolumeKey};
use libcryptsetup_rs::consts::vals::{
    CryptKdf, CryptLogLevel, EncryptionFormat, KeyslotsSize, MetadataSize,
};
use libcryptsetup_rs::{
    CryptDevice, CryptInit, CryptParamsLuks2, CryptParamsLuks2Ref, CryptPbkdfType, Either,
    LibcryptErr, TokenInput, c_logging_callback, set_log_callback,
};
use repart::ContentsError;
use repart::cli::EncryptRequest;
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use unlock::luks::Token;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::HEADER;
use super::keys::Keys;

/// Room for four key slots.
const KEYSLOTS: u64 = 1 << 20;

/// What the library said last: its error numbers say little.
static LAST: Mutex<Option<String>> = Mutex::new(None);

fn remember(level: CryptLogLevel, message: &str, _: Option<&mut ()>) {
    if matches!(level, CryptLogLevel::Error) {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.trim().to_owned());
    }
}

c_logging_callback!(log, (), remember);

/// Makes the header; what it was made in.
pub(super) fn make(request: &EncryptRequest<'_>, keys: &Keys) -> Result<File, ContentsError> {
    // Without a callback the library writes to stdout, amid the JSON.
    set_log_callback::<()>(Some(log), None);
    let path = request.directory.join("luks");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    file.set_len(request.partition.size)?;
    let mut device = CryptInit::init(&path).map_err(failed("open the header's file"))?;
    format(&mut device, request, keys).map_err(failed("format LUKS2"))?;
    if let Some(passphrase) = &keys.file {
        let kdf = file_kdf(request.definition.content.encrypt_kdf.as_deref())?;
        add_slot(&mut device, &keys.volume[..], passphrase, kdf)
            .map_err(failed("add the key file's slot"))?;
    }
    if let Some((secret, sealed)) = &keys.tpm {
        let passphrase = Zeroizing::new(STANDARD.encode(secret.bytes()).into_bytes());
        let keyslot = add_slot(&mut device, &keys.volume[..], &passphrase, minimal())
            .map_err(failed("add the TPM's slot"))?;
        let token = Token {
            keyslot,
            sealed: sealed.clone(),
        };
        let token = token.to_json()?;
        let mut handle = device.token_handle();
        handle
            .json_set(TokenInput::AddToken(&token))
            .map_err(failed("add the token"))?;
    }
    if request.discard {
        device
            .luks2_flag_handle::<CryptActivate>()
            .persistent_flags_set(CryptActivate::ALLOW_DISCARDS)
            .map_err(failed("store the discard flag"))?;
    }
    file.sync_all()?;
    Ok(file)
}

fn failed(what: &'static str) -> impl FnOnce(LibcryptErr) -> ContentsError {
    move |error| {
        let said = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
        let said = said.map(|text| format!(" ({text})")).unwrap_or_default();
        format!("cannot {what}: {error}{said}").into()
    }
}

fn format(
    device: &mut CryptDevice,
    request: &EncryptRequest<'_>,
    keys: &Keys,
) -> Result<(), LibcryptErr> {
    let slots = KeyslotsSize::try_from(KEYSLOTS)?;
    device
        .settings_handle()
        .set_metadata_size(MetadataSize::try_from(0x4000u64)?, slots)?;
    device.settings_handle().set_pbkdf_type(&minimal())?;
    device.set_data_offset(HEADER / 512)?;
    let parameters = CryptParamsLuks2 {
        pbkdf: Some(minimal()),
        integrity: None,
        integrity_params: None,
        data_alignment: 0,
        data_device: None,
        sector_size: request.sector_size,
        label: Some(request.label()),
        subsystem: None,
    };
    let mut parameters: CryptParamsLuks2Ref<'_> = (&parameters).try_into()?;
    device.context_handle().format(
        EncryptionFormat::Luks2,
        ("aes", "xts-plain64"),
        Some(Uuid::from_bytes(*request.partition.luks_uuid.bytes())),
        Either::Left(&keys.volume[..]),
        Some(&mut parameters),
    )
}

/// Adds a slot that gives the volume key for a passphrase; its number.
fn add_slot(
    device: &mut CryptDevice,
    volume: &[u8],
    passphrase: &[u8],
    kdf: CryptPbkdfType,
) -> Result<u32, LibcryptErr> {
    device.settings_handle().set_pbkdf_type(&kdf)?;
    device.keyslot_handle().add_by_key(
        None,
        Some(Either::Left(volume)),
        passphrase,
        CryptVolumeKey::empty(),
    )
}

/// `EncryptKDF=` of a key file's slot: it may hold what a person can remember, so Argon2id unless told otherwise.
fn file_kdf(name: Option<&str>) -> Result<CryptPbkdfType, ContentsError> {
    let kind = match name {
        None | Some("" | "argon2id") => CryptKdf::Argon2Id,
        Some("pbkdf2") => CryptKdf::Pbkdf2,
        Some("minimal") => return Ok(minimal()),
        Some(other) => {
            return Err(format!("EncryptKDF={other}: not one of argon2id, pbkdf2, minimal").into());
        }
    };
    let argon = matches!(kind, CryptKdf::Argon2Id);
    Ok(CryptPbkdfType {
        type_: kind,
        hash: Some("sha256".to_owned()),
        time_ms: 2000,
        iterations: 0,
        max_memory_kb: if argon { 1 << 20 } else { 0 },
        parallel_threads: if argon { 4 } else { 0 },
        flags: CryptPbkdf::empty(),
    })
}

/// For random passphrases, whose derivation needs no cost.
fn minimal() -> CryptPbkdfType {
    CryptPbkdfType {
        type_: CryptKdf::Pbkdf2,
        hash: Some("sha512".to_owned()),
        time_ms: 0,
        iterations: 1000,
        max_memory_kb: 0,
        parallel_threads: 0,
        flags: CryptPbkdf::NO_BENCHMARK,
    }
}
