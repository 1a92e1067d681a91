//! The `systemd-tpm2` token: how a sealed key slot passphrase is stored in a LUKS2 header (spec trust 2.1).
//!
//! Untrusted until the TPM has accepted what is in it. What this module cannot open (PIN, pcrlock, several shards) is
//! refused by name, never half used.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::tpm::{PcrPolicy, Pcrs, PublicKey, Sealed, SignedPolicy, TpmError};

/// The token's type.
pub const TYPE: &str = "systemd-tpm2";
/// Longest sealed object, decoded.
const MAX_BLOB: usize = 4096;

/// A token that does not say what it should.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not JSON of this shape.
    #[error("it is malformed")]
    Json(#[source] serde_json::Error),
    /// A field with an impossible value.
    #[error("field {0} is malformed")]
    Field(&'static str),
    /// A feature that cannot be opened here.
    #[error("it needs {0}, which is not supported")]
    Unsupported(&'static str),
    /// An unusable public key.
    #[error("its public key is unusable")]
    Key(#[source] TpmError),
}

/// One value, or one per shard.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Shards {
    One(String),
    Many(Vec<String>),
}

impl Shards {
    fn single(self) -> Result<String, TokenError> {
        match self {
            Self::One(value) => Ok(value),
            Self::Many(mut values) if values.len() == 1 => Ok(values.remove(0)),
            Self::Many(_) => Err(TokenError::Unsupported("several shards")),
        }
    }
}

/// The fields, with systemd's mixture of `-` and `_`.
#[derive(Serialize, Deserialize)]
struct Fields {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<String>,
    #[serde(rename = "tpm2-blob")]
    blob: Shards,
    #[serde(rename = "tpm2-pcrs")]
    pcrs: Vec<u8>,
    #[serde(rename = "tpm2-pcr-bank", skip_serializing_if = "Option::is_none")]
    bank: Option<String>,
    #[serde(rename = "tpm2-primary-alg", skip_serializing_if = "Option::is_none")]
    primary: Option<String>,
    #[serde(rename = "tpm2-policy-hash")]
    policy_hash: Shards,
    #[serde(rename = "tpm2-pin", default, skip_serializing_if = "is_false")]
    pin: bool,
    #[serde(rename = "tpm2_pcrlock", default, skip_serializing_if = "is_false")]
    pcrlock: bool,
    #[serde(
        rename = "tpm2_pubkey_pcrs",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    key_pcrs: Vec<u8>,
    #[serde(rename = "tpm2_pubkey", skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(rename = "tpm2_srk", skip_serializing_if = "Option::is_none")]
    srk: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A parsed token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The key slot whose passphrase is sealed.
    pub keyslot: u32,
    /// The sealed passphrase.
    pub sealed: Sealed,
}

impl Token {
    /// As it goes into the header.
    ///
    /// # Errors
    /// None with the types as they are; serde's signature.
    pub fn to_json(&self) -> Result<serde_json::Value, TokenError> {
        let sealed = &self.sealed;
        let signed = sealed.policy.signed.as_ref();
        serde_json::to_value(Fields {
            kind: TYPE.to_owned(),
            keyslots: vec![self.keyslot.to_string()],
            blob: Shards::One(STANDARD.encode(&sealed.blob)),
            pcrs: sealed.policy.literal.iter().collect(),
            bank: Some("sha256".to_owned()),
            primary: Some(if sealed.srk_is_ecc() { "ecc" } else { "rsa" }.to_owned()),
            policy_hash: Shards::One(hex::encode(sealed.policy_hash)),
            pin: false,
            pcrlock: false,
            key_pcrs: signed
                .map(|signed| signed.pcrs.iter().collect())
                .unwrap_or_default(),
            key: signed.map(|signed| STANDARD.encode(signed.public_key.pem())),
            srk: Some(STANDARD.encode(&sealed.srk)),
        })
        .map_err(TokenError::Json)
    }

    /// Reads a token object of the header's JSON.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn from_json(json: &serde_json::Value) -> Result<Self, TokenError> {
        let fields = Fields::deserialize(json).map_err(TokenError::Json)?;
        if fields.kind != TYPE {
            return Err(TokenError::Field("type"));
        }
        if fields.pin {
            return Err(TokenError::Unsupported("a PIN"));
        }
        if fields.pcrlock {
            return Err(TokenError::Unsupported("a pcrlock policy"));
        }
        if fields.bank.is_some_and(|bank| bank != "sha256") {
            return Err(TokenError::Unsupported("another bank than sha256"));
        }
        let [keyslot] = fields.keyslots.as_slice() else {
            return Err(TokenError::Field("keyslots"));
        };
        let keyslot = keyslot
            .parse()
            .ok()
            .filter(|slot| *slot < 32)
            .ok_or(TokenError::Field("keyslots"))?;
        let srk = fields
            .srk
            .ok_or(TokenError::Unsupported("the old primary key"))?;
        let mut policy_hash = [0; 32];
        hex::decode_to_slice(fields.policy_hash.single()?, &mut policy_hash)
            .map_err(|_| TokenError::Field("tpm2-policy-hash"))?;
        let policy = PcrPolicy {
            signed: signed(fields.key, &fields.key_pcrs)?,
            literal: Pcrs::try_of(&fields.pcrs).map_err(|_| TokenError::Field("tpm2-pcrs"))?,
        };
        let blob = decode(&fields.blob.single()?, "tpm2-blob")?;
        Ok(Self {
            keyslot,
            sealed: Sealed {
                blob,
                policy_hash,
                policy,
                srk: decode(&srk, "tpm2_srk")?,
            },
        })
    }
}

fn signed(key: Option<String>, pcrs: &[u8]) -> Result<Option<SignedPolicy>, TokenError> {
    let Some(key) = key else { return Ok(None) };
    let pem = String::from_utf8(decode(&key, "tpm2_pubkey")?)
        .map_err(|_| TokenError::Field("tpm2_pubkey"))?;
    let public_key = PublicKey::from_pem(&pem).map_err(TokenError::Key)?;
    let pcrs = Pcrs::try_of(pcrs).map_err(|_| TokenError::Field("tpm2_pubkey_pcrs"))?;
    if pcrs.is_empty() {
        return Err(TokenError::Field("tpm2_pubkey_pcrs"));
    }
    Ok(Some(SignedPolicy { public_key, pcrs }))
}

fn decode(text: &str, field: &'static str) -> Result<Vec<u8>, TokenError> {
    let bytes = STANDARD
        .decode(text)
        .map_err(|_| TokenError::Field(field))?;
    if bytes.len() > MAX_BLOB {
        Err(TokenError::Field(field))
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The shape systemd-cryptenroll 257 writes for `--tpm2-device=auto --tpm2-pcrs=7`.
    fn sample() -> Value {
        json!({
            "type": "systemd-tpm2", "keyslots": ["1"], "tpm2-blob": "AAEC", "tpm2-pcrs": [7], "tpm2-pcr-bank": "sha256",
            "tpm2-primary-alg": "ecc", "tpm2-policy-hash": "00".repeat(32), "tpm2-pin": false, "tpm2_pcrlock": false,
            "tpm2_srk": "gQAAAQABAAAAAAEABAAjAAs=", "something-new": 1
        })
    }

    fn with(key: &str, value: Value) -> Value {
        let mut token = sample();
        token[key] = value;
        token
    }

    #[test]
    fn what_is_written_reads_back() {
        let token = Token::from_json(&sample()).unwrap();
        assert_eq!(token.keyslot, 1);
        assert_eq!(token.sealed.policy, PcrPolicy::literal(Pcrs::one(7)));
        let json = token.to_json().unwrap();
        assert_eq!(Token::from_json(&json).unwrap(), token);
        for key in [
            "type",
            "keyslots",
            "tpm2-blob",
            "tpm2-pcrs",
            "tpm2-pcr-bank",
            "tpm2-primary-alg",
            "tpm2_srk",
        ] {
            assert_eq!(json[key], sample()[key], "{key}");
        }
        assert_eq!(
            Token::from_json(&with("tpm2-blob", json!(["AAEC"]))).unwrap(),
            token,
            "a list of one shard"
        );
    }

    #[test]
    fn what_cannot_be_opened_is_refused_by_name() {
        for (key, value, name) in [
            ("tpm2-pin", json!(true), "a PIN"),
            ("tpm2_pcrlock", json!(true), "a pcrlock policy"),
            ("tpm2-pcr-bank", json!("sha1"), "another bank than sha256"),
            ("tpm2-blob", json!(["AAEC", "AAEC"]), "several shards"),
            ("tpm2_srk", Value::Null, "the old primary key"),
        ] {
            let error = Token::from_json(&with(key, value)).unwrap_err();
            assert!(
                matches!(error, TokenError::Unsupported(what) if what == name),
                "{key}: {error:?}"
            );
        }
    }

    #[test]
    fn malformed_fields_are_named() {
        for (key, value) in [
            ("keyslots", json!([])),
            ("keyslots", json!(["0", "1"])),
            ("keyslots", json!(["99"])),
            ("tpm2-pcrs", json!([24])),
            ("tpm2-policy-hash", json!("00")),
            ("tpm2-blob", json!("*")),
            ("tpm2-blob", json!("A".repeat(4 * MAX_BLOB))),
            ("type", json!("systemd-fido2")),
        ] {
            let error = Token::from_json(&with(key, value)).unwrap_err();
            assert!(
                matches!(error, TokenError::Field(field) if field == key),
                "{key}: {error:?}"
            );
        }
        assert!(matches!(
            Token::from_json(&json!({})),
            Err(TokenError::Json(_))
        ));
    }
}
