//! The machine's record: a few hundred bytes in the TPM that everybody may read and that only the initrd of a genuine
//! image can write (spec trust 12 A).
//!
//! Invariant: an index with the expected *name* holds what was last written under the expected *policy*. The name is a
//! digest of the policy, the attributes and "written", so whoever deletes the index and makes another one (the owner's
//! authorisation is empty) gets either another name or an index that he cannot write. What the bytes mean is the
//! business of [`crate::luks::provenance`].

use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, ObjectHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, MaxNvBuffer, NvPublic};

use super::error::kind;
use super::policy::{be16, name_of, policy_authorize, policy_pcr};
use super::srk;
use super::{Bank, Kind, PcrPolicy, Pcrs, Signatures, Tpm, TpmError};

/// Bytes of the record: what every TPM reads and writes in one command.
pub(crate) const RECORD_BYTES: u16 = 480;
/// The PCR that must not have been extended when the record is written. Volume keys go there before a volume is mapped,
/// so that neither the booted system nor anything on a volume can write, whatever phases the image's maker signed.
const UNOPENED: u8 = 15;
/// NV indices of the owner (TCG registry of reserved handles).
const FIRST_HANDLE: u32 = 0x0180_0000;
const HANDLE_MASK: u32 = 0x003f_ffff;
/// `TPMA_NV`: POLICYWRITE, AUTHREAD (the authorisation is empty), NO_DA.
const ATTRIBUTES: u32 = 1 << 3 | 1 << 18 | 1 << 25;
const WRITTEN: u32 = 1 << 29;
/// How often the policy is evaluated again because somebody extended a PCR meanwhile.
const PCR_CHANGED_TRIES: u32 = 5;

/// What is at the record's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// The TPM has no storage root key: cleared, or new.
    NoStorageKey,
    /// Nothing: never made, deleted, or another TPM.
    Empty,
    /// An index that nobody could write yet: somebody replaced it, or the power failed while it was made.
    Unwritten,
    /// An index with another policy: of another key, of another boot state, or planted.
    Other,
    /// The record.
    Record(Vec<u8>),
}

/// The index as it has to be.
struct Index {
    handle: u32,
    policy: [u8; 32],
}

impl Index {
    fn name(&self, attributes: u32) -> Vec<u8> {
        let public = [
            &self.handle.to_be_bytes()[..],
            &[0x00, 0x0b],
            &attributes.to_be_bytes(),
            &be16(self.policy.len()),
            &self.policy,
            &RECORD_BYTES.to_be_bytes(),
        ];
        name_of(&public.concat())
    }

    fn public(&self) -> tss_esapi::Result<NvPublic> {
        NvPublic::builder()
            .with_nv_index(NvIndexTpmHandle::new(self.handle)?)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(NvIndexAttributes::try_from(ATTRIBUTES)?)
            .with_index_auth_policy(Digest::try_from(self.policy.to_vec())?)
            .with_data_area_size(usize::from(RECORD_BYTES))
            .build()
    }
}

/// The name of the key in a token's `tpm2_srk`.
pub(crate) fn storage_key_of(serialized: &[u8]) -> Option<&[u8]> {
    srk::parse(serialized).map(|(_, name)| name)
}

/// Makers do not get into each other's way; a changed boot state is found at the same place and thereby noticed.
fn handle(policy: &PcrPolicy) -> u32 {
    let mut hash = Sha256::new().chain_update("initrd-agent record v1");
    match &policy.signed {
        Some(signed) => hash.update(signed.public_key.name()),
        None => policy.literal.iter().for_each(|pcr| hash.update([pcr])),
    }
    let digest = hash.finalize();
    FIRST_HANDLE | u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) & HANDLE_MASK
}

impl Tpm {
    /// What the record says; two commands.
    ///
    /// The signed part of the policy counts alone if there is one: a record that is lost with every update of the
    /// firmware would teach people to accept its loss.
    pub(crate) fn record_read(&mut self, policy: &PcrPolicy) -> Result<Place, TpmError> {
        if !self.load_srk()? {
            return Ok(Place::NoStorageKey);
        }
        let index = self.record_index(policy)?;
        let Some((handle, name)) = self.record_handle(&index)? else {
            return Ok(Place::Empty);
        };
        let place = if name == index.name(ATTRIBUTES | WRITTEN) {
            // The session is salted to the storage root key and its authentication covers name and answer: on the bus
            // neither can be replaced.
            self.encrypted("NV_Read", None, |ctx| {
                ctx.nv_read(NvAuth::NvIndex(handle), handle, RECORD_BYTES, 0)
            })
            .map(|data| Place::Record(data.value().to_vec()))
        } else if name == index.name(ATTRIBUTES) {
            Ok(Place::Unwritten)
        } else {
            Ok(Place::Other)
        };
        self.close_record(handle)?;
        place
    }

    /// Replaces the record, and whatever else is in its place.
    ///
    /// # Errors
    /// [`TpmError::PolicyMismatch`] outside the initrd of a genuine image, and once a volume key was measured.
    pub(crate) fn record_write(
        &mut self,
        policy: &PcrPolicy,
        signatures: Option<&Signatures>,
        data: &[u8; RECORD_BYTES as usize],
    ) -> Result<(), TpmError> {
        self.srk_or_create()?;
        self.still_unopened()?;
        let index = self.record_index(policy)?;
        let data = MaxNvBuffer::try_from(data.to_vec()).map_err(TpmError::command("NV_Write"))?;
        for _ in 0..PCR_CHANGED_TRIES {
            let session = self.policy_session()?;
            // Nothing is touched before the policy is met.
            let written = self
                .satisfy_writer(session, &index, policy, signatures)
                .and_then(|()| self.write_authorised(session, &index, &data));
            let flushed = self.flush_session(session);
            match written {
                Err(TpmError::Command { source, .. })
                    if kind(&source) == Some(Kind::PcrChanged) => {}
                result => return result.and(flushed),
            }
        }
        Err(TpmError::PcrsKeepChanging {
            tries: PCR_CHANGED_TRIES,
        })
    }

    /// The storage root key's name.
    pub(crate) fn storage_key(&mut self) -> Result<Option<Vec<u8>>, TpmError> {
        Ok(if self.load_srk()? {
            Some(self.srk()?.name.clone())
        } else {
            None
        })
    }

    fn record_index(&mut self, policy: &PcrPolicy) -> Result<Index, TpmError> {
        let base = match &policy.signed {
            Some(signed) => policy_authorize(&signed.public_key.name(), &[]),
            None if policy.literal.is_empty() => {
                return Err(TpmError::PolicyMismatch {
                    reason: "an empty policy is none".to_owned(),
                });
            }
            None => policy_pcr([0; 32], policy.literal, &self.measured(policy.literal)?),
        };
        Ok(Index {
            handle: handle(policy),
            policy: policy_pcr(base, Pcrs::one(UNOPENED), &[vec![0; 32]]),
        })
    }

    /// The index at the record's place, and its name.
    fn record_handle(
        &mut self,
        index: &Index,
    ) -> Result<Option<(NvIndexHandle, Vec<u8>)>, TpmError> {
        let place =
            NvIndexTpmHandle::new(index.handle).map_err(TpmError::command("NV_ReadPublic"))?;
        let object = match self.call("NV_ReadPublic", |ctx| {
            ctx.tr_from_tpm_public(TpmHandle::NvIndex(place))
        }) {
            Err(TpmError::Command { source, .. }) if kind(&source) == Some(Kind::Handle) => {
                return Ok(None);
            }
            result => result?,
        };
        let name = self
            .context
            .tr_get_name(object)
            .map_err(TpmError::command("NV_ReadPublic"))?;
        Ok(Some((object.into(), name.value().to_vec())))
    }

    /// An index of ours, made if there is none.
    fn record_place(&mut self, index: &Index) -> Result<NvIndexHandle, TpmError> {
        match self.record_handle(index)? {
            Some((handle, name))
                if name == index.name(ATTRIBUTES | WRITTEN) || name == index.name(ATTRIBUTES) =>
            {
                return Ok(handle);
            }
            Some((handle, _)) => self.encrypted("NV_UndefineSpace", None, |ctx| {
                ctx.nv_undefine_space(Provision::Owner, handle)
            })?,
            None => {}
        }
        let public = index
            .public()
            .map_err(TpmError::command("NV_DefineSpace"))?;
        self.encrypted("NV_DefineSpace", None, |ctx| {
            ctx.nv_define_space(Provision::Owner, None, public.clone())
        })
    }

    fn write_authorised(
        &mut self,
        session: AuthSession,
        index: &Index,
        data: &MaxNvBuffer,
    ) -> Result<(), TpmError> {
        let handle = self.record_place(index)?;
        let written = self.encrypted("NV_Write", Some(session), |ctx| {
            ctx.nv_write(NvAuth::NvIndex(handle), handle, data.clone(), 0)
        });
        self.close_record(handle)?;
        written
    }

    fn satisfy_writer(
        &mut self,
        session: AuthSession,
        index: &Index,
        policy: &PcrPolicy,
        signatures: Option<&Signatures>,
    ) -> Result<(), TpmError> {
        let session =
            PolicySession::try_from(session).map_err(TpmError::command("StartAuthSession"))?;
        if let Some(signed) = &policy.signed {
            let signatures = signatures.ok_or_else(|| TpmError::PolicyMismatch {
                reason: "the image carries no PCR signatures".to_owned(),
            })?;
            self.authorize(session, signed, signatures)?;
        } else {
            self.policy_pcr(session, policy.literal)?;
        }
        self.policy_pcr(session, Pcrs::one(UNOPENED))?;
        let digest = self.call("PolicyGetDigest", |ctx| ctx.policy_get_digest(session))?;
        if digest.value() == index.policy {
            Ok(())
        } else {
            Err(TpmError::PolicyMismatch {
                reason: "in this state the record is not written".to_owned(),
            })
        }
    }

    /// Says so before the TPM does: its refusal names no PCR.
    fn still_unopened(&mut self) -> Result<(), TpmError> {
        let value = self
            .pcr_read(Bank::Sha256, UNOPENED)?
            .ok_or(TpmError::NoBank { pcr: UNOPENED })?;
        if value.iter().all(|&byte| byte == 0) {
            Ok(())
        } else {
            Err(TpmError::PolicyMismatch {
                reason: format!("PCR {UNOPENED} says that a volume was opened already"),
            })
        }
    }

    /// Lets go of what ESYS knows about the index; no command.
    fn close_record(&mut self, handle: NvIndexHandle) -> Result<(), TpmError> {
        self.context
            .tr_close(&mut ObjectHandle::from(handle))
            .map_err(TpmError::command("NV_ReadPublic"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_owners() {
        let place = handle(&PcrPolicy::literal(Pcrs::one(7)));
        assert_eq!(place & !HANDLE_MASK, FIRST_HANDLE);
        assert_ne!(place, handle(&PcrPolicy::literal(Pcrs::one(4))));
    }

    #[test]
    fn the_name_covers_policy_and_state() {
        let index = |policy| Index {
            handle: FIRST_HANDLE,
            policy,
        };
        let name = index([1; 32]).name(ATTRIBUTES);
        assert_eq!(name.len(), 34);
        assert_ne!(name, index([2; 32]).name(ATTRIBUTES));
        assert_ne!(name, index([1; 32]).name(ATTRIBUTES | WRITTEN));
    }
}
