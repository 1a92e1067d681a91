//! From a decision to a disk on which nothing old is left: dooms, consumes, erases, in this order and no other.
//!
//! Invariant: the caller has seen the whole plan to be sound, and everything its contents need to be there, before
//! [`clear`] is called: behind it lies only the way forward. Each step may have been done by an earlier boot.

use super::Change;
use super::doom;
use super::erase::{Depth, EraseError, Erased, Target, Uncached, erase};
use super::identity::{self, Part, RequestId, already_executed};
use repart::{Gpt, Guid, Plan, Snapshot, Table, TableState};
use std::error::Error;

/// What the caller has to do for [`clear`].
pub trait Hands<D> {
    /// Writes a table that differs from the one on the disk in entries only; durable when it returns.
    ///
    /// # Errors
    /// Why it is not written.
    fn commit(
        &mut self,
        disk: &mut D,
        there: &Gpt,
        table: &Table,
    ) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Deletes the variables of these requests, and returns those that are still there
    /// ([`super::variable::Store::consume`]).
    fn consume(&mut self, requests: &[Part]) -> Vec<Part>;
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Cleared {
    /// For `repart::Policy::seed`: the new partitions remember the request.
    pub seed: Guid,
    /// The identity behind it.
    pub recorded: RequestId,
    /// Whether the reset began now, or an earlier boot had begun it.
    pub begun: Change,
    /// By number of the partition.
    pub erased: Vec<(u32, Erased)>,
}

/// Why the disk is not cleared.
#[derive(Debug, thiserror::Error)]
pub enum ClearError {
    /// There is nothing a record could be made in.
    #[error("the disk has no GPT, so a factory reset cannot be recorded on it")]
    NoTable,
    /// The record was not made; nothing was erased.
    #[error("the factory reset cannot be recorded in the partition table; nothing was erased")]
    Commit(#[source] Box<dyn Error + Send + Sync>),
    /// The erasure is incomplete. Every later boot continues it.
    #[error("the factory reset is incomplete; the next boot continues it")]
    Erase(#[source] EraseError),
}

/// Erases the partitions `numbers` (what `repart::marked_for_reset` says, and what [`doom::find`] found).
///
/// # Errors
/// The step that failed.
pub fn clear<D: Uncached>(
    disk: &mut D,
    snapshot: &Snapshot,
    numbers: &[u32],
    id: RequestId,
    requests: &[Part],
    hands: &mut impl Hands<D>,
) -> Result<Cleared, ClearError> {
    let TableState::Gpt(gpt) = &snapshot.table else {
        return Err(ClearError::NoTable);
    };
    let mut begun = Change::Unchanged;
    if let Some(table) = doom::doom(&gpt.table, numbers, id) {
        hands
            .commit(disk, gpt, &table)
            .map_err(ClearError::Commit)?;
        begun = Change::Changed;
    }
    let recorded = id.recorded(&hands.consume(requests));
    let mut erased = Vec::new();
    for target in targets(&gpt.table, numbers, snapshot.sector_size) {
        let done = erase(disk, &target, Depth::Keys).map_err(ClearError::Erase)?;
        erased.push((target.number, done));
    }
    Ok(Cleared {
        seed: identity::seed_for(recorded, &identity::present(snapshot)),
        recorded,
        begun,
        erased,
    })
}

/// The places of these partitions.
#[must_use]
pub fn targets(table: &Table, numbers: &[u32], sector_size: u32) -> Vec<Target> {
    let sector = u64::from(sector_size);
    table
        .used()
        .filter(|entry| numbers.contains(&entry.number))
        .map(|entry| Target {
            number: entry.number,
            offset: entry.first_lba.saturating_mul(sector),
            size: (entry.last_lba.saturating_add(1))
                .saturating_sub(entry.first_lba)
                .saturating_mul(sector),
        })
        .collect()
}

/// A plan made with the seed of `id` will be recognised. Not so if every new partition has a UUID of its own
/// (`UUID=` in the definitions): then a variable that cannot be deleted would fire again, and the reset is refused.
#[must_use]
pub fn leaves_mark(plan: &Plan, id: RequestId) -> bool {
    already_executed(&identity::planned(plan), id)
}
