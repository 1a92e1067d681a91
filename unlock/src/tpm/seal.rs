//! Sealing and unsealing (spec trust 2.2 to 2.4).

use std::sync::atomic::{Ordering, compiler_fence};

use sha2::{Digest as _, Sha256};
use tss_esapi::attributes::SessionAttributes;
use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, Name, Nonce, Private, Public, PublicKeyRsa, RsaSignature, SensitiveData, Signature,
    VerifiedTicket,
};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};
use tss_esapi::tss2_esys::TPMT_TK_VERIFIED;
use zeroize::Zeroizing;

use super::error::kind;
use super::policy::{be16, policy_authorize, policy_pcr};
use super::srk;
use super::{
    Bank, Kind, PcrPolicy, Pcrs, PublicKey, SRK_HANDLE, Signatures, SignedPolicy, Tpm, TpmError,
};

/// How often a policy is evaluated again because somebody extended a PCR meanwhile.
const PCR_CHANGED_TRIES: u32 = 30;

/// A secret: wiped on drop, never printed.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// 32 random bytes of the kernel's, which waits until it has enough.
    ///
    /// # Errors
    /// [`TpmError::Random`].
    pub fn random() -> Result<Self, TpmError> {
        let mut bytes = Zeroizing::new(vec![0; 32]);
        fill_random(&mut bytes).map_err(|source| TpmError::Random { source })?;
        Ok(Self(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Compares without stopping at the first difference.
    pub fn equals(&self, other: &Self) -> bool {
        let differ = self
            .0
            .iter()
            .zip(other.0.iter())
            .fold(0, |all, (a, b)| all | (a ^ b));
        compiler_fence(Ordering::SeqCst);
        self.0.len() == other.0.len() && differ == 0
    }
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}

/// A sealed secret: useless without the TPM that sealed it. Everything here is public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// `TPM2B_PRIVATE` and `TPM2B_PUBLIC`, one after the other.
    pub blob: Vec<u8>,
    /// Digest of the policy.
    pub policy_hash: [u8; 32],
    /// The policy itself.
    pub policy: PcrPolicy,
    /// The parent as ESYS serialises it.
    pub srk: Vec<u8>,
}

impl Sealed {
    /// Whether the parent is an elliptic curve key (the other kind is RSA).
    pub fn srk_is_ecc(&self) -> bool {
        srk::parse(&self.srk).and_then(|(_, name)| self.srk.get(12 + name.len()..14 + name.len()))
            == Some(&[0x00, 0x23])
    }
}

impl Tpm {
    /// Seals a secret of at most 128 bytes to a policy.
    ///
    /// # Errors
    /// A PCR of the policy was never extended, the policy is empty, or the TPM refuses.
    pub fn seal(&mut self, secret: &Secret, policy: &PcrPolicy) -> Result<Sealed, TpmError> {
        if policy.signed.is_none() && policy.literal.is_empty() {
            return Err(TpmError::PolicyMismatch {
                reason: "an empty policy is none".to_owned(),
            });
        }
        self.srk_or_create()?;
        let policy_hash = self.policy_hash(policy)?;
        let template = Public::unmarshall(&sealed_template(&policy_hash))
            .map_err(TpmError::command("Create"))?;
        let data = SensitiveData::try_from(secret.bytes().to_vec())
            .map_err(TpmError::command("Create"))?;
        let parent = self.srk()?.handle;
        let created = self.encrypted("Create", None, |ctx| {
            ctx.create(
                parent,
                template.clone(),
                None,
                Some(data.clone()),
                None,
                None,
            )
        })?;
        let public = created
            .out_public
            .marshall()
            .map_err(TpmError::command("Create"))?;
        let private = created.out_private.value();
        let blob = [
            &be16(private.len())[..],
            private,
            &be16(public.len()),
            &public,
        ]
        .concat();
        Ok(Sealed {
            blob,
            policy_hash,
            policy: policy.clone(),
            srk: self.srk()?.serialized(),
        })
    }

    /// Gives the secret back if the machine is in the state it was sealed to.
    ///
    /// `signatures` are needed for a signed policy.
    ///
    /// # Errors
    /// [`TpmError::PolicyMismatch`] for another state, [`TpmError::OtherTpm`], [`TpmError::Lockout`] and the rest.
    pub fn unseal(
        &mut self,
        sealed: &Sealed,
        signatures: Option<&Signatures>,
    ) -> Result<Secret, TpmError> {
        let (handle, name) = srk::parse(&sealed.srk).ok_or(TpmError::Blob {
            reason: "storage root key",
        })?;
        if handle != SRK_HANDLE {
            return Err(TpmError::Blob {
                reason: "its parent is not the storage root key",
            });
        }
        if !self.load_srk()? {
            return Err(TpmError::OtherTpm {
                reason: "it has no storage root key",
            });
        }
        let srk = self.srk()?;
        if srk.name != name {
            return Err(TpmError::OtherTpm {
                reason: "its storage root key is another one",
            });
        }
        let parent = srk.handle;
        let (private, public) = split_blob(&sealed.blob)?;
        let object = self
            .encrypted("Load", None, |ctx| {
                ctx.load(parent, private.clone(), public.clone())
            })
            .map_err(|error| match error {
                TpmError::Command { ref source, .. } if kind(source) == Some(Kind::Integrity) => {
                    TpmError::OtherTpm {
                        reason: "it cannot decrypt the sealed object",
                    }
                }
                error => error,
            })?;
        let secret = self.unseal_loaded(object, sealed, signatures);
        let flushed = self.call("FlushContext", |ctx| ctx.flush_context(object.into()));
        let secret = secret?;
        flushed?;
        Ok(secret)
    }

    fn unseal_loaded(
        &mut self,
        object: KeyHandle,
        sealed: &Sealed,
        signatures: Option<&Signatures>,
    ) -> Result<Secret, TpmError> {
        for _ in 0..PCR_CHANGED_TRIES {
            let policy = self.policy_session()?;
            let secret = self.satisfy(policy, sealed, signatures).and_then(|()| {
                self.encrypted("Unseal", Some(policy), |ctx| ctx.unseal(object.into()))
            });
            // After success the TPM has closed the session itself unless continueSession was set.
            let flushed = self.flush_session(policy);
            match secret {
                Err(TpmError::Command { source, .. })
                    if kind(&source) == Some(Kind::PcrChanged) => {}
                Err(TpmError::Command { source, .. })
                    if kind(&source) == Some(Kind::PolicyFail) =>
                {
                    return Err(TpmError::PolicyMismatch {
                        reason: "the TPM refuses the policy".to_owned(),
                    });
                }
                Err(error) => return Err(error),
                Ok(data) => {
                    flushed?;
                    return Ok(Secret(Zeroizing::new(data.value().to_vec())));
                }
            }
        }
        Err(TpmError::PcrsKeepChanging {
            tries: PCR_CHANGED_TRIES,
        })
    }

    /// Brings a policy session to the digest the object demands, or says why that is not possible.
    fn satisfy(
        &mut self,
        session: AuthSession,
        sealed: &Sealed,
        signatures: Option<&Signatures>,
    ) -> Result<(), TpmError> {
        let session =
            PolicySession::try_from(session).map_err(TpmError::command("StartAuthSession"))?;
        if let Some(signed) = &sealed.policy.signed {
            let signatures = signatures.ok_or_else(|| TpmError::PolicyMismatch {
                reason: "the image carries no PCR signatures".to_owned(),
            })?;
            self.authorize(session, signed, signatures)?;
        }
        if !sealed.policy.literal.is_empty() {
            self.policy_pcr(session, sealed.policy.literal)?;
        }
        let digest = self.call("PolicyGetDigest", |ctx| ctx.policy_get_digest(session))?;
        if digest.value() != sealed.policy_hash {
            let list: Vec<String> = sealed
                .policy
                .literal
                .iter()
                .map(|pcr| pcr.to_string())
                .collect();
            let reason = if list.is_empty() {
                "the public key is not the one the secret was sealed to".to_owned()
            } else {
                format!("PCR {} differs", list.join(" or "))
            };
            return Err(TpmError::PolicyMismatch { reason });
        }
        Ok(())
    }

    /// PolicyPCR, then PolicyAuthorize with the image's signature for exactly that state.
    pub(super) fn authorize(
        &mut self,
        session: PolicySession,
        signed: &SignedPolicy,
        signatures: &Signatures,
    ) -> Result<(), TpmError> {
        let key = &signed.public_key;
        self.policy_pcr(session, signed.pcrs)?;
        let approved = self.call("PolicyGetDigest", |ctx| ctx.policy_get_digest(session))?;
        let signature = signatures
            .find(key, signed.pcrs, approved.value())
            .ok_or_else(|| TpmError::PolicyMismatch {
                reason: format!(
                    "no signature of the image is for PCR policy {}",
                    hex::encode(approved.value())
                ),
            })?;
        let signature = PublicKeyRsa::try_from(signature)
            .and_then(|signature| RsaSignature::create(HashingAlgorithm::Sha256, signature))
            .map(Signature::RsaSsa)
            .map_err(TpmError::command("VerifySignature"))?;
        let public =
            Public::unmarshall(&key.tpmt_public()).map_err(TpmError::command("LoadExternal"))?;
        let digest = Digest::try_from(Sha256::digest(approved.value()).as_slice())
            .map_err(TpmError::command("VerifySignature"))?;
        let name = Name::try_from(key.name()).map_err(TpmError::command("PolicyAuthorize"))?;
        let ticket = self.verify(key, &public, &digest, &signature)?;
        self.call("PolicyAuthorize", |ctx| {
            let ticket = VerifiedTicket::try_from(ticket)?;
            ctx.policy_authorize(session, approved.clone(), Nonce::default(), &name, ticket)
        })
    }

    /// The TPM's word that the signature is good. It holds until the next reset, so each signature is verified once a
    /// boot however many volumes it opens.
    fn verify(
        &mut self,
        key: &PublicKey,
        public: &Public,
        digest: &Digest,
        signature: &Signature,
    ) -> Result<TPMT_TK_VERIFIED, TpmError> {
        let what = (key.fingerprint(), digest.value().to_vec());
        if let Some((known, ticket)) = &self.verified
            && *known == what
        {
            return Ok(*ticket);
        }
        let handle = self.call("LoadExternal", |ctx| {
            ctx.load_external_public(public.clone(), Hierarchy::Owner)
        })?;
        let ticket = self.call("VerifySignature", |ctx| {
            ctx.verify_signature(handle, digest.clone(), signature.clone())?
                .try_into()
        });
        self.call("FlushContext", |ctx| ctx.flush_context(handle.into()))?;
        let ticket = ticket.map_err(|error| match error {
            TpmError::Command { ref source, .. } if kind(source) == Some(Kind::Signature) => {
                TpmError::PolicyMismatch {
                    reason: "the image's PCR signature is wrong".to_owned(),
                }
            }
            error => error,
        })?;
        self.verified = Some((what, ticket));
        Ok(ticket)
    }

    pub(super) fn policy_pcr(
        &mut self,
        session: PolicySession,
        pcrs: Pcrs,
    ) -> Result<(), TpmError> {
        let selection = self.selection(Bank::Sha256, pcrs)?;
        self.call("PolicyPCR", |ctx| {
            ctx.policy_pcr(session, Digest::default(), selection.clone())
        })
    }

    /// The digest of a policy in the present state, without asking the TPM to evaluate it.
    fn policy_hash(&mut self, policy: &PcrPolicy) -> Result<[u8; 32], TpmError> {
        let mut hash = [0; 32];
        if let Some(signed) = &policy.signed {
            self.measured(signed.pcrs)?;
            hash = policy_authorize(&signed.public_key.name(), &[]);
        }
        if !policy.literal.is_empty() {
            let values = self.measured(policy.literal)?;
            hash = policy_pcr(hash, policy.literal, &values);
        }
        Ok(hash)
    }

    /// Values of the PCRs in the SHA-256 bank, every one of them extended at least once.
    pub(super) fn measured(&mut self, pcrs: Pcrs) -> Result<Vec<Vec<u8>>, TpmError> {
        pcrs.iter()
            .map(|pcr| {
                let value = self
                    .pcr_read(Bank::Sha256, pcr)?
                    .ok_or(TpmError::NoBank { pcr })?;
                if value.iter().all(|&byte| byte == 0) || value.iter().all(|&byte| byte == 0xff) {
                    return Err(TpmError::Unextended {
                        pcr,
                        bank: Bank::Sha256.name(),
                    });
                }
                Ok(value)
            })
            .collect()
    }

    /// Runs a command under the encrypting session, after `first` if the object needs a policy.
    pub(super) fn encrypted<T>(
        &mut self,
        command: &'static str,
        first: Option<AuthSession>,
        mut run: impl FnMut(&mut tss_esapi::Context) -> tss_esapi::Result<T>,
    ) -> Result<T, TpmError> {
        let session = self.encrypting_session()?;
        let sessions = match first {
            Some(policy) => (Some(policy), Some(session), None),
            None => (Some(session), None, None),
        };
        let result = self.call(command, |ctx| ctx.execute_with_sessions(sessions, &mut run));
        if result.is_err() {
            // Its nonces may have moved on one side only: the next command starts a new one.
            self.session = None;
            drop(self.flush_session(session));
        }
        result
    }

    fn encrypting_session(&mut self) -> Result<AuthSession, TpmError> {
        if let Some(session) = self.session {
            return Ok(session);
        }
        let session = self.salted_session()?;
        let (attributes, mask) = SessionAttributes::builder()
            .with_continue_session(true)
            .with_decrypt(true)
            .with_encrypt(true)
            .build();
        self.call("session attributes", |ctx| {
            ctx.tr_sess_set_attributes(session, attributes, mask)
        })?;
        self.session = Some(session);
        Ok(session)
    }

    pub(super) fn flush_session(&mut self, session: AuthSession) -> Result<(), TpmError> {
        self.call("FlushContext", |ctx| {
            ctx.flush_context(SessionHandle::from(session).into())
        })
    }
}

/// `TPMT_PUBLIC` of a sealed object: fixedTPM, fixedParent and, because there is no PIN, noDA.
fn sealed_template(policy_hash: &[u8; 32]) -> Vec<u8> {
    let mut public = vec![0x00, 0x08, 0x00, 0x0b];
    public.extend(0x0000_0412u32.to_be_bytes());
    public.extend(be16(policy_hash.len()));
    public.extend(policy_hash);
    public.extend([0x00, 0x10, 0, 0]); // no scheme, empty unique
    public
}

fn split_blob(blob: &[u8]) -> Result<(Private, Public), TpmError> {
    let bad = |reason| TpmError::Blob { reason };
    let sized = |data: &[u8]| -> Option<(Vec<u8>, Vec<u8>)> {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        Some((value.to_vec(), rest.to_vec()))
    };
    let (private, rest) = sized(blob).ok_or(bad("private part"))?;
    let (public, rest) = sized(&rest).ok_or(bad("public part"))?;
    if !rest.is_empty() {
        return Err(bad("sealed offline, which needs an import"));
    }
    let private = Private::try_from(private).map_err(|_| bad("private part"))?;
    let public = Public::unmarshall(&public).map_err(|_| bad("public part"))?;
    Ok((private, public))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_that_do_not_parse() {
        for blob in [
            &b""[..],
            &[0],
            &[0, 4, 1],
            &[0, 1, 9, 0, 9, 1],
            &[0, 1, 9, 0, 1, 1],
        ] {
            assert!(
                matches!(split_blob(blob), Err(TpmError::Blob { .. })),
                "{blob:?}"
            );
        }
    }
}
