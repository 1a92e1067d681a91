//! The PCR signature file that a unified kernel image carries (`.pcrsig`; spec trust 3.1).
//!
//! Untrusted until the TPM has verified a signature in it: sizes are capped before anything is parsed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Pcrs, PublicKey, TpmError};

/// Longest file that is read.
const MAX_BYTES: usize = 128 * 1024;
/// Most signatures looked at; systemd signs four phases a key.
const MAX_ENTRIES: usize = 64;

/// The signatures for the SHA-256 bank.
#[derive(Debug, Clone)]
pub struct Signatures(Vec<Entry>);

#[derive(Debug, Clone, Deserialize)]
struct Entry {
    pcrs: Vec<u8>,
    pkfp: String,
    #[serde(rename = "ref")]
    policy_ref: Option<String>,
    pol: String,
    sig: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    sha256: Vec<Entry>,
}

impl Signatures {
    /// Reads the JSON text.
    ///
    /// # Errors
    /// [`TpmError::Signatures`].
    pub fn from_json(json: &[u8]) -> Result<Self, TpmError> {
        let bad = |reason: String| TpmError::Signatures { reason };
        if json.len() > MAX_BYTES {
            return Err(bad(format!(
                "{} bytes long, {MAX_BYTES} allowed",
                json.len()
            )));
        }
        // systemd-stub hands the section over as it is in the image, with trailing NULs.
        let end = json
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        let file: File =
            serde_json::from_slice(&json[..end]).map_err(|error| bad(error.to_string()))?;
        if file.sha256.len() > MAX_ENTRIES {
            return Err(bad(format!(
                "{} signatures, {MAX_ENTRIES} allowed",
                file.sha256.len()
            )));
        }
        Ok(Self(file.sha256))
    }

    /// The signature of `key` for the policy digest, if there is one.
    pub(super) fn find(&self, key: &PublicKey, pcrs: Pcrs, policy: &[u8]) -> Option<Vec<u8>> {
        let (fingerprint, policy) = (hex::encode(key.fingerprint()), hex::encode(policy));
        self.0
            .iter()
            .filter(|entry| entry.policy_ref.is_none() && Pcrs::try_of(&entry.pcrs) == Ok(pcrs))
            .find(|entry| {
                entry.pkfp.eq_ignore_ascii_case(&fingerprint)
                    && entry.pol.eq_ignore_ascii_case(&policy)
            })
            .and_then(|entry| STANDARD.decode(&entry.sig).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_refused() {
        let entry = r#"{"pcrs":[11],"pkfp":"00","pol":"00","sig":""}"#;
        let many = format!(
            r#"{{"sha256":[{}]}}"#,
            vec![entry; MAX_ENTRIES + 1].join(",")
        );
        assert!(matches!(
            Signatures::from_json(many.as_bytes()),
            Err(TpmError::Signatures { .. })
        ));
        let long = vec![b' '; MAX_BYTES + 1];
        assert!(matches!(
            Signatures::from_json(&long),
            Err(TpmError::Signatures { .. })
        ));
        let enough = format!("{{\"sha256\":[{entry}],\"sha1\":[{entry}]}}\0\0");
        assert_eq!(Signatures::from_json(enough.as_bytes()).unwrap().0.len(), 1);
    }
}
