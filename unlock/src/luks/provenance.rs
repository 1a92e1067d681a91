//! Whether a volume is ours: that it unlocks does not say so (spec trust 2.7, 12 A).
//!
//! The machine's record in the TPM lists a digest for every volume that the agent made: an HMAC, keyed with the volume
//! key, over disk, role and LUKS UUID. It is the reference that a volume is held against after it is unlocked and before
//! it is measured or mapped, on every path. Invariant: nothing that a disk, a header or a caller's flag says can turn
//! [`Verdict::Foreign`] or [`Verdict::Unprovable`] into [`Verdict::Ours`]; only [`register`] can, and the TPM lets only
//! the initrd of a genuine image do that, before any volume is opened. The argument is in PROVENANCE.md.

use std::path::PathBuf;

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use super::{SealedKey, Unlocked};
use crate::tpm::provenance::{Place, RECORD_BYTES, storage_key_of};
use crate::tpm::{PcrPolicy, Signatures, Tpm, TpmError};

/// Bytes of an entry: tags of disk and role, which only keep the book, and the digest, which counts.
const ENTRY: usize = 40;
/// Most volumes a machine can have.
pub const MAX_VOLUMES: usize = RECORD_BYTES as usize / ENTRY;

/// The record could not be read or written. No volume may be opened, or no volume may be made, then.
#[derive(Debug, thiserror::Error)]
pub enum ProvenanceError {
    /// The TPM does not give the record.
    #[error("the machine's record of its volumes cannot be read")]
    Read(#[source] TpmError),
    /// The TPM does not take it: another state than a genuine image's initrd, a volume is open already, or no room.
    #[error("the machine's record of its volumes cannot be written")]
    Write(#[source] TpmError),
    /// Volumes of other disks take the room.
    #[error("the machine's record has room for {MAX_VOLUMES} volumes and is full")]
    Full,
    /// The TPM took it and gives back something else.
    #[error("the TPM forgets the machine's record of its volumes")]
    Forgotten,
}

/// What a volume says it is.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    /// The name of its mapping: `root`, `home`, `swap`.
    pub role: &'a str,
    /// LUKS UUID.
    pub uuid: &'a str,
    /// Its volume key.
    pub volume_key: &'a [u8],
    /// `tpm2_srk` of its token: the storage root key it was sealed under, for a better diagnosis. Not trusted.
    pub srk: &'a [u8],
}

/// Who vouches for the record, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A genuine image of the key's owner made the volume, in its initrd, on this machine.
    Image,
    /// Something made it on this machine that was booted with the same values of the policy's PCRs. With PCR 7 and Secure
    /// Boot on: something the same keys let boot. With Secure Boot off: anything at all.
    BootState,
}

/// Proof to the contrary: the record is intact and does not have this volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// There is one for the role, with another key or UUID: swapped, exchanged, or an older one brought back.
    #[error("another volume is registered in its place: it was swapped or rolled back")]
    Replaced,
    /// There is none for the role on this disk.
    #[error("this machine never made it")]
    Unknown,
    /// None, and its key is sealed to another TPM.
    #[error("another machine made it")]
    OtherMachine,
}

/// There is no record to ask. Neither ours nor foreign can be told from here: a person must decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unprovable {
    /// The volume is sealed to another TPM and this one has no record.
    #[error("it was made with another TPM, or this one was cleared")]
    OtherTpm,
    /// The TPM has neither storage root key nor record.
    #[error("the TPM was cleared or never used")]
    Cleared,
    /// It is the right TPM, without a record.
    #[error("the TPM has no record of this machine's volumes: it was deleted or never made")]
    NoRecord,
    /// An index that was never written is in the record's place.
    #[error("the TPM's record of this machine's volumes was replaced by an empty one")]
    Emptied,
    /// An index with another policy is in the record's place.
    #[error("the TPM's record is of another boot state, of another image's key, or was planted")]
    OtherWriter,
}

/// What the record says about a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a volume that is not ours must not be mapped"]
pub enum Verdict {
    /// Ours.
    Ours(Proof),
    /// Not ours: refuse.
    Foreign(Foreign),
    /// Cannot be told: refuse, unless a person decides otherwise after having shown the recovery key.
    Unprovable(Unprovable),
}

/// A volume that unlocks and is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum NotOurs {
    /// Proven.
    #[error("{device} unlocks, but it is not the {role} volume of this machine")]
    Foreign {
        /// The partition.
        device: PathBuf,
        /// The name of the mapping it was to have.
        role: String,
        /// How it is known.
        source: Foreign,
    },
    /// Nothing to prove it by.
    #[error("{device} unlocks, but nothing proves that it is the {role} volume of this machine")]
    Unprovable {
        /// The partition.
        device: PathBuf,
        /// The name of the mapping it was to have.
        role: String,
        /// What is missing.
        source: Unprovable,
    },
}

/// What becomes of the other volumes of the same disk when new ones are registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They stay: a partition is added, or kept by a factory reset.
    Keep,
    /// They are foreign from now on: whoever gets a new root must not get the old home with it.
    Forget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    disk: [u8; 4],
    role: [u8; 4],
    digest: [u8; 32],
}

/// The machine's record as it was read: once a boot, whatever the number of volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    entries: Result<Vec<Entry>, Unprovable>,
    proof: Proof,
    storage_key: Option<Vec<u8>>,
}

impl Record {
    /// Reads the record that only the holder of `policy` writes. The policy is that of the *running* image: its key from
    /// the measured image, never one that a header names.
    ///
    /// # Errors
    /// [`ProvenanceError::Read`]. An absent record is none: then every verdict is [`Verdict::Unprovable`].
    pub fn read(tpm: &mut Tpm, policy: &PcrPolicy) -> Result<Self, ProvenanceError> {
        let entries = match tpm.record_read(policy).map_err(ProvenanceError::Read)? {
            Place::Record(bytes) => Ok(parse(&bytes)),
            Place::NoStorageKey => Err(Unprovable::Cleared),
            Place::Empty => Err(Unprovable::NoRecord),
            Place::Unwritten => Err(Unprovable::Emptied),
            Place::Other => Err(Unprovable::OtherWriter),
        };
        let proof = if policy.signed.is_some() {
            Proof::Image
        } else {
            Proof::BootState
        };
        Ok(Self {
            entries,
            proof,
            storage_key: tpm.storage_key().map_err(ProvenanceError::Read)?,
        })
    }

    /// [`Self::verify`] as a step between unlocking and [`Unlocked::activate`].
    ///
    /// # Errors
    /// [`NotOurs`]; nothing was mapped or measured then.
    pub fn admit(&self, disk: &[u8; 16], role: &str, volume: &Unlocked) -> Result<Proof, NotOurs> {
        let (device, name) = (volume.path.clone(), role.to_owned());
        match self.verify(disk, &volume.claim(role)) {
            Verdict::Ours(proof) => Ok(proof),
            Verdict::Foreign(source) => Err(NotOurs::Foreign {
                device,
                role: name,
                source,
            }),
            Verdict::Unprovable(source) => Err(NotOurs::Unprovable {
                device,
                role: name,
                source,
            }),
        }
    }

    /// Judges a volume of the disk with this GUID. No TPM command.
    pub fn verify(&self, disk: &[u8; 16], claim: &Claim<'_>) -> Verdict {
        let moved = self
            .storage_key
            .as_deref()
            .is_some_and(|key| !claim.srk.is_empty() && storage_key_of(claim.srk) != Some(key));
        let entries = match &self.entries {
            Ok(entries) => entries,
            Err(_) if moved => return Verdict::Unprovable(Unprovable::OtherTpm),
            Err(reason) => return Verdict::Unprovable(*reason),
        };
        let wanted = Entry::of(disk, claim);
        if entries.iter().any(|entry| entry.digest == wanted.digest) {
            return Verdict::Ours(self.proof);
        }
        Verdict::Foreign(if moved {
            Foreign::OtherMachine
        } else if entries.iter().any(|entry| entry.same_place(&wanted)) {
            Foreign::Replaced
        } else {
            Foreign::Unknown
        })
    }
}

/// Writes new volumes into the record: *before* they are formatted, and so before the partition table names them. A
/// volume with the role of a listed one takes its place, so that the older one is foreign from now on.
///
/// # Errors
/// [`ProvenanceError`]; the volumes must not be made then.
pub fn register(
    tpm: &mut Tpm,
    policy: &PcrPolicy,
    signatures: Option<&Signatures>,
    disk: &[u8; 16],
    others: Others,
    claims: &[Claim<'_>],
) -> Result<Record, ProvenanceError> {
    let before = Record::read(tpm, policy)?;
    let new: Vec<Entry> = claims.iter().map(|claim| Entry::of(disk, claim)).collect();
    let mut entries = before.entries.clone().unwrap_or_default();
    entries.retain(|old| {
        !new.iter().any(|entry| entry.same_place(old))
            && (others == Others::Keep || old.disk != tag(disk))
    });
    entries.extend(new);
    if before.entries.as_ref() == Ok(&entries) {
        return Ok(before);
    }
    let bytes = serialize(&entries).ok_or(ProvenanceError::Full)?;
    tpm.record_write(policy, signatures, &bytes)
        .map_err(ProvenanceError::Write)?;
    let after = Record::read(tpm, policy)?;
    if after.entries.as_ref() == Ok(&entries) {
        Ok(after)
    } else {
        Err(ProvenanceError::Forgotten)
    }
}

impl SealedKey {
    /// What the volume that is made of this key will say it is.
    pub fn claim<'a>(&'a self, role: &'a str, uuid: &'a str) -> Claim<'a> {
        Claim {
            role,
            uuid,
            volume_key: self.volume_key(),
            srk: &self.sealed().srk,
        }
    }
}

impl Unlocked {
    /// What the volume says it is.
    pub fn claim<'a>(&'a self, role: &'a str) -> Claim<'a> {
        Claim {
            role,
            uuid: &self.uuid,
            volume_key: &self.key,
            srk: &self.srk,
        }
    }
}

impl Entry {
    fn of(disk: &[u8; 16], claim: &Claim<'_>) -> Self {
        Self {
            disk: tag(disk),
            role: tag(claim.role.as_bytes()),
            digest: digest(disk, claim),
        }
    }

    fn same_place(&self, other: &Self) -> bool {
        self.disk == other.disk && self.role == other.role
    }
}

/// The lengths keep fields apart, that of the key among them: HMAC pads short keys with zeroes.
fn digest(disk: &[u8; 16], claim: &Claim<'_>) -> [u8; 32] {
    let message = [
        &b"initrd-agent volume v1"[..],
        &claim.volume_key.len().to_be_bytes(),
        disk,
        &claim.role.len().to_be_bytes(),
        claim.role.as_bytes(),
        &claim.uuid.len().to_be_bytes(),
        claim.uuid.as_bytes(),
    ]
    .concat();
    // An HMAC takes keys of every length; the fallback is never reached and equals no entry.
    Hmac::<Sha256>::new_from_slice(claim.volume_key)
        .map(|mac| mac.chain_update(message).finalize().into_bytes().into())
        .unwrap_or_default()
}

fn tag(of: &[u8]) -> [u8; 4] {
    let digest = Sha256::digest(of);
    [digest[0], digest[1], digest[2], digest[3]]
}

fn parse(bytes: &[u8]) -> Vec<Entry> {
    let (entries, _) = bytes.as_chunks::<ENTRY>();
    let cut = |from: &[u8; ENTRY]| {
        let (disk, rest) = from.split_first_chunk::<4>()?;
        let (role, rest) = rest.split_first_chunk::<4>()?;
        Some(Entry {
            disk: *disk,
            role: *role,
            digest: *rest.first_chunk::<32>()?,
        })
    };
    entries
        .iter()
        .filter_map(cut)
        .filter(|entry| entry.digest != [0; 32])
        .collect()
}

/// Nothing if they are too many.
fn serialize(entries: &[Entry]) -> Option<[u8; RECORD_BYTES as usize]> {
    let mut bytes = [0; RECORD_BYTES as usize];
    let (places, _) = bytes.as_chunks_mut::<ENTRY>();
    if entries.len() > places.len() {
        return None;
    }
    for (place, entry) in places.iter_mut().zip(entries) {
        place[..4].copy_from_slice(&entry.disk);
        place[4..8].copy_from_slice(&entry.role);
        place[8..].copy_from_slice(&entry.digest);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: [u8; 16] = [7; 16];

    fn claim<'a>(role: &'a str, uuid: &'a str, volume_key: &'a [u8]) -> Claim<'a> {
        Claim {
            role,
            uuid,
            volume_key,
            srk: &[],
        }
    }

    #[test]
    fn every_field_counts() {
        let base = digest(&DISK, &claim("root", "u", &[1; 64]));
        for other in [
            digest(&[8; 16], &claim("root", "u", &[1; 64])),
            digest(&DISK, &claim("home", "u", &[1; 64])),
            digest(&DISK, &claim("root", "v", &[1; 64])),
            digest(&DISK, &claim("root", "u", &[2; 64])),
            digest(&DISK, &claim("roo", "tu", &[1; 64])),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(
            digest(&DISK, &claim("root", "u", &[1, 0])),
            digest(&DISK, &claim("root", "u", &[1])),
            "HMAC alone does not tell these keys apart"
        );
    }

    #[test]
    fn the_record_round_trips_and_is_bounded() {
        let entry = |n: usize| Entry::of(&DISK, &claim(&n.to_string(), "u", b"key"));
        let full: Vec<Entry> = (0..MAX_VOLUMES).map(entry).collect();
        assert_eq!(parse(&serialize(&full).unwrap()), full);
        assert_eq!(parse(&serialize(&full[..3]).unwrap()), full[..3]);
        let more: Vec<Entry> = (0..=MAX_VOLUMES).map(entry).collect();
        assert_eq!(serialize(&more), None);
        assert!(parse(&[]).is_empty());
    }
}
