//! Opening a volume that exists, in the order of spec trust 12: copy, judge, unseal, and only then let libcryptsetup
//! see the judged copy as a detached header.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use libcryptsetup_rs::consts::flags::CryptActivate;
use libcryptsetup_rs::consts::vals::EncryptionFormat;
use libcryptsetup_rs::{CryptDevice, CryptInit, CryptParamsLuks2Ref, Either, LibcryptErr};
use zeroize::Zeroizing;

use super::format::passphrase;
use super::header::{Header, size_of};
use super::metadata::{self, KEY_BYTES};
use super::{LuksError, Unlocked};
use crate::crypt::call;
use crate::tpm::{Signatures, Tpm};

/// Unlocks the volume on a partition with its one TPM2 token. The volume is not mapped.
///
/// # Errors
/// [`LuksError`].
pub fn read(
    path: &Path,
    tpm: &mut Tpm,
    signatures: Option<&Signatures>,
) -> Result<Unlocked, LuksError> {
    let io = |source| LuksError::Device {
        device: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let header = Header::read(&file).map_err(|source| LuksError::Header {
        device: path.to_owned(),
        source,
    })?;
    let judged = metadata::check(&header, size_of(&file).map_err(io)?).map_err(|source| {
        LuksError::Refused {
            device: path.to_owned(),
            source,
        }
    })?;
    let secret = tpm
        .unseal(&judged.token.sealed, signatures)
        .map_err(|source| LuksError::Tpm {
            device: path.to_owned(),
            source,
        })?;
    let memory = header
        .private_copy(&file, judged.keyslots_size)
        .map_err(io)?;

    let crypt = |source| LuksError::Crypt {
        device: path.to_owned(),
        source,
    };
    let detached = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
    let mut device = load(&detached, path).map_err(crypt)?;
    let mut key = Zeroizing::new(vec![0; usize::try_from(KEY_BYTES).unwrap_or(64)]);
    call("open the key slot", || {
        let slot = Some(judged.token.keyslot);
        let (_, size) =
            device
                .volume_key_handle()
                .get(slot, &mut key, Some(passphrase(&secret).as_bytes()))?;
        if size == key.len() {
            Ok(())
        } else {
            Err(LibcryptErr::Other(format!("a volume key of {size} bytes")))
        }
    })
    .map_err(|source| LuksError::WrongSecret {
        device: path.to_owned(),
        source,
    })?;
    let discard = call("read the stored flags", || {
        device
            .luks2_flag_handle::<CryptActivate>()
            .persistent_flags_get()
    })
    .map_err(crypt)?
    .contains(CryptActivate::ALLOW_DISCARDS);
    Ok(Unlocked {
        device,
        _header: Some(memory),
        path: path.to_owned(),
        uuid: header.uuid,
        key,
        srk: judged.token.sealed.srk,
        discard,
    })
}

fn load(header: &Path, data: &Path) -> Result<CryptDevice, crate::CryptError> {
    let mut device = call("open the header", || {
        CryptInit::init_with_data_device(Either::Right((header, data)))
    })?;
    call("load the header", || {
        device
            .context_handle()
            .load::<CryptParamsLuks2Ref<'_>>(Some(EncryptionFormat::Luks2), None)
    })?;
    Ok(device)
}
