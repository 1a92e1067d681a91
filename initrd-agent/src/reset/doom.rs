//! The record that a reset has begun: the marked entries of the partition table get the label
//! `factory-reset:<request>` and the no-auto bit, in one table write. Everything else of them stays, so that what has
//! to be erased can still be found, by us and by a person.
//!
//! Invariant: that write is the point of no return. It is made before the first byte is erased, and only the final
//! table, which has the new partitions, takes the record away again.

use super::identity::RequestId;
use repart::{Snapshot, Table, TableState};

/// With the 22 digits of a request exactly the 36 characters a label can hold.
const PREFIX: &str = "factory-reset:";
/// Discoverable Partitions: not to be mounted automatically, by whatever boots this disk in between.
const NO_AUTO: u64 = 1 << 63;

/// A reset that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Under which identity.
    pub id: RequestId,
    /// The partitions that are to be erased, by number.
    pub numbers: Vec<u32>,
}

/// The reset that was begun on this disk and not finished. Labels that only look similar do not count.
#[must_use]
pub fn find(snapshot: &Snapshot) -> Option<Doomed> {
    let TableState::Gpt(gpt) = &snapshot.table else {
        return None;
    };
    let marked: Vec<(RequestId, u32)> = gpt
        .table
        .used()
        .filter_map(|entry| {
            let id = RequestId::parse(entry.label.strip_prefix(PREFIX)?)?;
            (entry.attributes & NO_AUTO != 0).then_some((id, entry.number))
        })
        .collect();
    Some(Doomed {
        id: marked.first()?.0,
        numbers: marked.into_iter().map(|(_, number)| number).collect(),
    })
}

/// The table that dooms the partitions `numbers`; `None` if this one does so already or there are none.
#[must_use]
pub fn doom(table: &Table, numbers: &[u32], id: RequestId) -> Option<Table> {
    let mut doomed = table.clone();
    let mut changed = false;
    for entry in table.used().filter(|e| numbers.contains(&e.number)) {
        let mut new = entry.clone();
        new.label = format!("{PREFIX}{id}");
        new.attributes |= NO_AUTO;
        changed |= new != entry && doomed.set(&new);
    }
    changed.then_some(doomed)
}
