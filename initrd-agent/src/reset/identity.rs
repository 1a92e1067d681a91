//! What makes one request different from the next, and how the table shows that it was executed.
//!
//! Invariant: the partitions a reset creates have UUIDs derived from the request (the planner's own derivation, keyed
//! by [`seed_for`]). Whoever has the request and the table can tell; nothing else has to be stored, and the record is
//! made by the very write that makes the reset final.

use std::collections::BTreeSet;
use std::fmt;

use repart::{Guid, Plan, Snapshot, Table, TableState};
use sha2::{Digest, Sha256};

/// As many bytes as fit in a partition label in hexadecimal behind its prefix.
const ID_BYTES: usize = 11;
/// Seeds one request may use, so that a variable without identity does not bring old UUIDs back.
const GENERATIONS: u8 = 8;
/// More partitions of one type than this are not looked at.
const INSTANCES: u64 = 32;

/// A request that this machine and system should act on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `FactoryReset`: a bare yes, the same every time (systemd up to 257). Orders first: it is deleted first.
    Legacy(Vec<u8>),
    /// `FactoryResetRequest`: names the boot that made it, so no two are the same (systemd from 258).
    Request(Vec<u8>),
    /// The command line of this boot.
    Boot([u8; 16]),
}

impl Part {
    /// Name of the EFI variable, if it is one.
    #[must_use]
    pub fn variable(&self) -> Option<&'static str> {
        match self {
            Self::Legacy(_) => Some(super::variable::LEGACY),
            Self::Request(_) => Some(super::variable::REQUEST),
            Self::Boot(_) => None,
        }
    }

    fn content(&self) -> (u8, &[u8]) {
        match self {
            Self::Legacy(value) => (1, value),
            Self::Request(value) => (2, value),
            Self::Boot(id) => (3, id),
        }
    }
}

/// Identity of a request, or of several that one reset answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId([u8; ID_BYTES]);

impl RequestId {
    /// Of a set of requests; their order does not matter.
    #[must_use]
    pub fn of(parts: &[Part]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"initrd-agent factory-reset request 1\0");
        for part in parts.iter().collect::<BTreeSet<_>>() {
            let (kind, bytes) = part.content();
            hash.update([kind]);
            hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(bytes);
        }
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&hash.finalize()[..ID_BYTES]);
        Self(id)
    }

    /// Under which a reset for `parts` is begun. Never that of a legacy variable, which has none: its mark would
    /// swallow the next such request.
    #[must_use]
    pub fn primary(parts: &[Part], boot_id: [u8; 16]) -> Self {
        let named: Vec<Part> = parts
            .iter()
            .filter(|part| matches!(part, Part::Request(_)))
            .cloned()
            .collect();
        if named.is_empty() {
            Self::of(&[Part::Boot(boot_id)])
        } else {
            Self::of(&named)
        }
    }

    /// What the table has to remember: the variables that are still there, else the identity it was begun under.
    #[must_use]
    pub fn recorded(self, remaining: &[Part]) -> Self {
        if remaining.is_empty() {
            self
        } else {
            Self::of(remaining)
        }
    }

    /// From its 22 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 2 * ID_BYTES || !text.bytes().all(lower) {
            return None;
        }
        let mut id = [0; ID_BYTES];
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(id))
    }

    fn seed(self, generation: u8) -> Guid {
        let mut hash = Sha256::new();
        hash.update(b"initrd-agent factory-reset seed 1\0");
        hash.update(self.0);
        hash.update([generation]);
        let mut seed = [0; 16];
        seed.copy_from_slice(&hash.finalize()[..16]);
        Guid::from_bytes(seed)
    }

    fn marks(self, generation: u8, view: &[Identity]) -> bool {
        let seed = self.seed(generation);
        let types: BTreeSet<Guid> = view.iter().map(|one| one.partition_type).collect();
        types.into_iter().any(|kind| {
            let derived: BTreeSet<Guid> = (0..INSTANCES)
                .map(|instance| derive(seed, kind, instance))
                .collect();
            view.iter()
                .any(|one| one.partition_type == kind && derived.contains(&one.uuid))
        })
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What of a partition tells where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its type.
    pub partition_type: Guid,
    /// Its UUID.
    pub uuid: Guid,
}

/// The partitions that are there.
#[must_use]
pub fn present(snapshot: &Snapshot) -> Vec<Identity> {
    match &snapshot.table {
        TableState::Gpt(gpt) => of_table(&gpt.table),
        TableState::None | TableState::Other(_) => Vec::new(),
    }
}

/// The partitions that will be there.
#[must_use]
pub fn planned(plan: &Plan) -> Vec<Identity> {
    of_table(plan.table())
}

fn of_table(table: &Table) -> Vec<Identity> {
    let identity = |entry: repart::Entry| Identity {
        partition_type: entry.partition_type.uuid(),
        uuid: entry.guid,
    };
    table.used().map(identity).collect()
}

/// A reset under this identity made partitions that are in `view`.
#[must_use]
pub fn already_executed(view: &[Identity], id: RequestId) -> bool {
    (0..GENERATIONS).any(|generation| id.marks(generation, view))
}

/// The planner's seed (`repart::Policy::seed`) for a reset that `id` has to be found by. `view` is the table before:
/// a seed that it shows already is not taken again.
#[must_use]
pub fn seed_for(id: RequestId, view: &[Identity]) -> Guid {
    let free = (0..GENERATIONS).find(|generation| !id.marks(*generation, view));
    id.seed(free.unwrap_or(0))
}

/// The planner's derivation (spec repart 3.2).
fn derive(seed: Guid, kind: Guid, instance: u64) -> Guid {
    let mut message = kind.bytes().to_vec();
    if instance > 0 {
        message.extend_from_slice(&instance.to_le_bytes());
    }
    seed.derive(&message)
}

/// Those of `parts` that a reset in `view` has answered. Requests answered together are recorded together.
#[must_use]
pub fn executed(parts: &[Part], view: &[Identity]) -> Vec<Part> {
    let mut done = BTreeSet::new();
    for choice in 1u32..1 << parts.len().min(3) {
        let subset: Vec<Part> = parts
            .iter()
            .enumerate()
            .filter(|(at, _)| choice >> at & 1 == 1)
            .map(|(_, part)| part.clone())
            .collect();
        if already_executed(view, RequestId::of(&subset)) {
            done.extend(subset);
        }
    }
    done.into_iter().collect()
}
