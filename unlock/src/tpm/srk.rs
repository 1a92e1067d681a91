//! The storage root key: the persistent parent of everything sealed (spec trust 2.2).

use tss_esapi::constants::SessionType;
use tss_esapi::handles::{KeyHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Public, SymmetricDefinition};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};

use super::error::kind;
use super::policy::{be16, name_of};
use super::{Kind, Tpm, TpmError};

/// Where the TCG says the key is, and where systemd and every other tool look.
pub const SRK_HANDLE: u32 = 0x8100_0001;

/// restricted, decrypt, fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA.
const ATTRIBUTES: [u8; 4] = 0x0003_0472u32.to_be_bytes();
/// Those without which an object at the handle is not a key that was born in this TPM and never leaves it.
const REQUIRED: u32 = 0x0003_0032;

/// The key as this TPM has it.
pub(super) struct Srk {
    pub(super) handle: KeyHandle,
    pub(super) name: Vec<u8>,
    public: Vec<u8>,
}

impl Srk {
    /// As ESYS serialises it; the form of the token's `tpm2_srk`.
    pub(super) fn serialized(&self) -> Vec<u8> {
        [
            &SRK_HANDLE.to_be_bytes()[..],
            &be16(self.name.len()),
            &self.name,
            &1u32.to_be_bytes(),
            &be16(self.public.len()),
            &self.public,
        ]
        .concat()
    }
}

/// Handle and name out of the serialised form.
pub(super) fn parse(serialized: &[u8]) -> Option<(u32, &[u8])> {
    let (handle, rest) = serialized.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let name = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    Some((u32::from_be_bytes(*handle), name))
}

/// `TPMT_PUBLIC` templates L-2 and L-1: AES-128-CFB, no scheme, no unique bytes.
fn templates() -> [Vec<u8>; 2] {
    let head = |algorithm: u8| {
        [
            &[0, algorithm, 0, 0x0b][..],
            &ATTRIBUTES,
            &[0, 0, 0, 0x06, 0, 0x80, 0, 0x43, 0, 0x10],
        ]
        .concat()
    };
    [
        [head(0x23), vec![0, 0x03, 0, 0x10, 0, 0, 0, 0]].concat(), // P-256, no KDF, empty point
        [head(0x01), vec![0x08, 0, 0, 0, 0, 0, 0, 0]].concat(), // 2048 bits, default exponent, empty modulus
    ]
}

impl Tpm {
    /// Loads the key, making it if nobody has.
    pub(super) fn srk_or_create(&mut self) -> Result<(), TpmError> {
        if self.load_srk()? {
            return Ok(());
        }
        let [ecc, rsa] = templates();
        match self.create_srk(&ecc) {
            // A TPM without the curve or without ECC at all.
            Err(TpmError::Command { source, .. })
                if matches!(
                    kind(&source),
                    Some(Kind::Curve | Kind::Type | Kind::Value | Kind::Asymmetric | Kind::Scheme)
                ) =>
            {
                self.create_srk(&rsa)?;
            }
            result => result?,
        }
        if self.load_srk()? {
            Ok(())
        } else {
            Err(TpmError::Answer {
                what: "no storage root key after it made one",
            })
        }
    }

    /// Loads the key if it exists. The name is computed from the public part and compared with what the TPM says.
    pub(super) fn load_srk(&mut self) -> Result<bool, TpmError> {
        if self.srk.is_some() {
            return Ok(true);
        }
        let persistent =
            PersistentTpmHandle::new(SRK_HANDLE).map_err(TpmError::command("ReadPublic"))?;
        let handle = match self
            .context
            .tr_from_tpm_public(TpmHandle::Persistent(persistent))
        {
            Ok(handle) => KeyHandle::from(handle),
            Err(error) if kind(&error) == Some(Kind::Handle) => return Ok(false),
            Err(error) => return Err(TpmError::command("ReadPublic")(error)),
        };
        let (public, name, _) = self.call("ReadPublic", |ctx| ctx.read_public(handle))?;
        let public = public.marshall().map_err(TpmError::command("ReadPublic"))?;
        if name_of(&public) != name.value() {
            return Err(TpmError::Answer {
                what: "a storage root key that does not match its name",
            });
        }
        let attributes = public
            .get(4..8)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u32::from_be_bytes);
        if attributes & REQUIRED != REQUIRED {
            return Err(TpmError::Answer {
                what: "a storage root key that is no storage key of this TPM",
            });
        }
        self.srk = Some(Srk {
            handle,
            name: name.value().to_vec(),
            public,
        });
        Ok(true)
    }

    fn create_srk(&mut self, template: &[u8]) -> Result<(), TpmError> {
        let template = Public::unmarshall(template).map_err(TpmError::command("CreatePrimary"))?;
        let persistent =
            PersistentTpmHandle::new(SRK_HANDLE).map_err(TpmError::command("EvictControl"))?;
        let created = self.call("CreatePrimary", |ctx| {
            ctx.execute_with_session(Some(AuthSession::Password), |ctx| {
                ctx.create_primary(Hierarchy::Owner, template.clone(), None, None, None, None)
            })
        })?;
        let kept = self.call("EvictControl", |ctx| {
            ctx.execute_with_session(Some(AuthSession::Password), |ctx| {
                ctx.evict_control(
                    Provision::Owner,
                    created.key_handle.into(),
                    Persistent::Persistent(persistent),
                )
            })
        });
        self.call("FlushContext", |ctx| {
            ctx.flush_context(created.key_handle.into())
        })?;
        kept.map(drop)
    }

    /// The loaded key.
    pub(super) fn srk(&self) -> Result<&Srk, TpmError> {
        self.srk.as_ref().ok_or(TpmError::OtherTpm {
            reason: "it has no storage root key",
        })
    }

    /// A session salted to the key, so that only this TPM can follow what is encrypted in it.
    pub(super) fn salted_session(&mut self) -> Result<AuthSession, TpmError> {
        let key = self.srk()?.handle;
        self.start_session(Some(key), SessionType::Hmac)
    }

    /// A session that only evaluates a policy. It is not salted, which costs a key agreement: no secret passes in it, and
    /// the command it authorises is protected by the salted one beside it.
    pub(super) fn policy_session(&mut self) -> Result<AuthSession, TpmError> {
        self.start_session(None, SessionType::Policy)
    }

    fn start_session(
        &mut self,
        key: Option<KeyHandle>,
        kind: SessionType,
    ) -> Result<AuthSession, TpmError> {
        self.call("StartAuthSession", |ctx| {
            ctx.start_auth_session(
                key,
                None,
                None,
                kind,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
        })?
        .ok_or(TpmError::Answer { what: "no session" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialised_handle_round_trip() {
        let srk = Srk {
            handle: tss_esapi::handles::ObjectHandle::None.into(),
            name: vec![0, 0x0b, 7],
            public: vec![1, 2],
        };
        let bytes = srk.serialized();
        assert_eq!(hex::encode(&bytes), "810000010003000b070000000100020102");
        assert_eq!(parse(&bytes), Some((SRK_HANDLE, &[0, 0x0b, 7][..])));
        for cut in 0..9 {
            assert_eq!(parse(&bytes[..cut]), None, "{cut} bytes");
        }
    }
}
