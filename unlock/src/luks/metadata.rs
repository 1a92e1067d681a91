//! What a LUKS2 header may say before anything is done with it (spec trust 12 B, C, D, K).
//!
//! The header is the attacker's to write. Whatever selects how data is read, decrypted or rearranged must have the one
//! value that we would have written, or one of a few that systemd's tools write; everything else is refused by name.

use serde_json::{Map, Value};

use super::token::{TYPE, Token, TokenError};
use crate::luks::header::{Header, MAX_KEYSLOTS};

/// The cipher of data and key slots.
pub(super) const CIPHER: &str = "aes-xts-plain64";
/// Its key: two AES-256 keys.
pub(super) const KEY_BYTES: u64 = 64;
/// Most PBKDF2 iterations of the TPM's slot: its passphrase has full entropy, systemd uses 1000.
const MAX_TPM_ITERATIONS: u64 = 100_000;
/// Most memory of another slot's Argon2, in KiB. Such a slot is not used here, but a person may add a passphrase.
const MAX_ARGON2_KIB: u64 = 1024 * 1024;

/// A header that is intact and says something that is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A value that is not on the list.
    #[error("{field} is {found}, expected {expected}")]
    Value {
        /// Where.
        field: String,
        /// What it says.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// Something that must not be there at all.
    #[error("{0} is present")]
    Present(&'static str),
    /// Not exactly one where there must be one.
    #[error("{found} {what} instead of one")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
    },
    /// The one token is unusable.
    #[error("the TPM2 token is refused")]
    Token(#[source] TokenError),
}

/// What is needed of an acceptable header.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) token: Token,
    pub(super) keyslots_size: u64,
}

/// Judges a header.
pub(super) fn check(header: &Header, device_size: u64) -> Result<Metadata, Refusal> {
    let json = &header.json;
    let keyslots_size = config(json, header)?;
    let keyslots_end = header.keyslots_offset() + keyslots_size;
    segment(
        only(object(json, "segments")?, "segments")?,
        keyslots_end,
        device_size,
    )?;
    let token = token(object(json, "tokens")?)?;
    let keyslots = object(json, "keyslots")?;
    let slot = token.keyslot.to_string();
    if !keyslots.contains_key(&slot) {
        return Err(refuse("tokens.keyslots", &slot, "an existing key slot"));
    }
    if keyslots.len() > 32 {
        return Err(Refusal::Count {
            what: "key slots",
            found: keyslots.len(),
        });
    }
    for (name, value) in keyslots {
        keyslot(
            &format!("keyslots.{name}"),
            value,
            *name == slot,
            header.keyslots_offset()..keyslots_end,
        )?;
    }
    digest(only(object(json, "digests")?, "digests")?, &slot)?;
    Ok(Metadata {
        token,
        keyslots_size,
    })
}

fn config(json: &Value, header: &Header) -> Result<u64, Refusal> {
    let config = json.get("config").unwrap_or(&Value::Null);
    if json
        .pointer("/config/requirements/mandatory")
        .is_some_and(|list| list.as_array().is_none_or(|l| !l.is_empty()))
    {
        return Err(Refusal::Present(
            "config.requirements (reencryption or an unknown feature)",
        ));
    }
    for flag in config
        .get("flags")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        const FLAGS: [&str; 5] = [
            "allow-discards",
            "same-cpu-crypt",
            "submit-from-crypt-cpus",
            "no-read-workqueue",
            "no-write-workqueue",
        ];
        if !flag.as_str().is_some_and(|flag| FLAGS.contains(&flag)) {
            return Err(refuse("config.flags", flag, "a known flag"));
        }
    }
    let json_size = number(config, "json_size").unwrap_or(0);
    if json_size + 4096 != header.size() {
        return Err(refuse(
            "config.json_size",
            json_size,
            "the header's size less 4096",
        ));
    }
    let size = number(config, "keyslots_size").unwrap_or(0);
    if size == 0 || size > MAX_KEYSLOTS || !size.is_multiple_of(4096) {
        return Err(refuse(
            "config.keyslots_size",
            size,
            "at most 128 MiB in blocks of 4096",
        ));
    }
    Ok(size)
}

fn segment(segment: &Value, keyslots_end: u64, device_size: u64) -> Result<(), Refusal> {
    expect(segment, "segments", "type", "crypt", "crypt")?;
    expect(segment, "segments", "encryption", CIPHER, "aes-xts-plain64")?;
    expect(segment, "segments", "iv_tweak", "0", "0")?;
    expect(segment, "segments", "size", "dynamic", "dynamic")?;
    for (key, what) in [
        ("integrity", "segments.integrity"),
        ("flags", "segments.flags"),
    ] {
        if segment
            .get(key)
            .is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty()))
        {
            return Err(Refusal::Present(what));
        }
    }
    let sector = segment
        .get("sector_size")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    if ![512, 1024, 2048, 4096].contains(&sector) {
        return Err(refuse("segments.sector_size", sector, "512 to 4096"));
    }
    let offset = number(segment, "offset").unwrap_or(0);
    if offset < keyslots_end || offset >= device_size || !offset.is_multiple_of(4096) {
        return Err(refuse(
            "segments.offset",
            offset,
            "behind the key slots and on the device",
        ));
    }
    Ok(())
}

fn token(tokens: &Map<String, Value>) -> Result<Token, Refusal> {
    if tokens.len() > 32 {
        return Err(Refusal::Count {
            what: "tokens",
            found: tokens.len(),
        });
    }
    let ours: Vec<&Value> = tokens
        .values()
        .filter(|token| token.get("type").and_then(Value::as_str) == Some(TYPE))
        .collect();
    let [token] = ours.as_slice() else {
        return Err(Refusal::Count {
            what: "systemd-tpm2 tokens",
            found: ours.len(),
        });
    };
    Token::from_json(token).map_err(Refusal::Token)
}

fn keyslot(
    name: &str,
    slot: &Value,
    is_tpm: bool,
    area: std::ops::Range<u64>,
) -> Result<(), Refusal> {
    expect(slot, name, "type", "luks2", "luks2")?;
    let key_size = |value: &Value| value.get("key_size").and_then(Value::as_u64).unwrap_or(0);
    let (region, kdf) = (
        slot.get("area").unwrap_or(&Value::Null),
        slot.get("kdf").unwrap_or(&Value::Null),
    );
    if key_size(slot) != KEY_BYTES || key_size(region) != KEY_BYTES {
        return Err(refuse(&format!("{name}.key_size"), key_size(slot), "64"));
    }
    expect(region, &format!("{name}.area"), "type", "raw", "raw")?;
    expect(
        region,
        &format!("{name}.area"),
        "encryption",
        CIPHER,
        "aes-xts-plain64",
    )?;
    let (offset, size) = (
        number(region, "offset").unwrap_or(0),
        number(region, "size").unwrap_or(u64::MAX),
    );
    if offset < area.start || offset.checked_add(size).is_none_or(|end| end > area.end) {
        return Err(refuse(
            &format!("{name}.area.offset"),
            offset,
            "inside the key slots' area",
        ));
    }
    let splitter = slot.get("af").unwrap_or(&Value::Null);
    expect(splitter, &format!("{name}.af"), "type", "luks1", "luks1")?;
    if splitter.get("stripes").and_then(Value::as_u64) != Some(4000) {
        return Err(refuse(
            &format!("{name}.af.stripes"),
            &splitter["stripes"],
            "4000",
        ));
    }
    let cost = |key| kdf.get(key).and_then(Value::as_u64).unwrap_or(u64::MAX);
    match kdf.get("type").and_then(Value::as_str) {
        Some("pbkdf2") if !is_tpm || cost("iterations") <= MAX_TPM_ITERATIONS => Ok(()),
        Some("argon2id" | "argon2i") if !is_tpm && cost("memory") <= MAX_ARGON2_KIB => Ok(()),
        _ => Err(refuse(
            &format!("{name}.kdf"),
            kdf,
            "PBKDF2 with few iterations (other slots: Argon2 within 1 GiB)",
        )),
    }
}

fn digest(digest: &Value, slot: &str) -> Result<(), Refusal> {
    expect(digest, "digests", "type", "pbkdf2", "pbkdf2")?;
    let lists = |key: &str, item: &str| {
        digest
            .get(key)
            .and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(|entry| entry == item))
    };
    if !lists("keyslots", slot) || !lists("segments", "0") {
        return Err(refuse(
            "digests",
            digest,
            "one that covers the TPM's key slot and segment 0",
        ));
    }
    let iterations = digest
        .get("iterations")
        .and_then(Value::as_u64)
        .unwrap_or(u64::MAX);
    if iterations > 10_000_000 {
        return Err(refuse("digests.iterations", iterations, "at most 10000000"));
    }
    Ok(())
}

fn object<'a>(json: &'a Value, key: &'static str) -> Result<&'a Map<String, Value>, Refusal> {
    json.get(key)
        .and_then(Value::as_object)
        .ok_or_else(|| refuse(key, &Value::Null, "an object"))
}

/// The single entry, which must be number 0.
fn only<'a>(map: &'a Map<String, Value>, what: &'static str) -> Result<&'a Value, Refusal> {
    match map.get("0") {
        Some(value) if map.len() == 1 => Ok(value),
        _ => Err(Refusal::Count {
            what,
            found: map.len(),
        }),
    }
}

/// LUKS2 writes 64-bit numbers as decimal strings.
fn number(json: &Value, key: &str) -> Option<u64> {
    json.get(key)?.as_str()?.parse().ok()
}

fn expect(
    json: &Value,
    path: &str,
    key: &str,
    value: &str,
    expected: &'static str,
) -> Result<(), Refusal> {
    let found = json.get(key).unwrap_or(&Value::Null);
    if found.as_str() == Some(value) {
        Ok(())
    } else {
        Err(refuse(&format!("{path}.{key}"), found, expected))
    }
}

fn refuse(field: &str, found: impl ToString, expected: &'static str) -> Refusal {
    let mut found = found.to_string();
    if let Some((cut, _)) = found.char_indices().nth(80) {
        found.truncate(cut);
    }
    Refusal::Value {
        field: field.to_owned(),
        found,
        expected,
    }
}
