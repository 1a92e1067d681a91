//! The ground a plan stands on: which table, which range, which entries (spec 2.1, 2.9, 6.1).

use super::error::PlanError;
use super::policy::{EmptyMode, Policy};
use crate::gpt::{Copy, Entry, Gpt, Mbr, Snapshot, Table, TableState};
use crate::guid::Guid;
use crate::size::{round_down, round_up};

/// The table to start from and the range in bytes.
pub(super) struct Ground {
    pub(super) table: Table,
    pub(super) entries: Vec<Entry>,
    pub(super) from_scratch: bool,
    pub(super) good_copy: Copy,
    pub(super) mbr: Mbr,
    /// Something about the copies on disk is not as it should be.
    pub(super) needs_repair: bool,
    pub(super) len: u64,
    pub(super) sector: u64,
    pub(super) sector_size: u32,
    pub(super) grain: u64,
    /// First usable byte, rounded up.
    pub(super) start: u64,
    /// First byte after the usable range, rounded down.
    pub(super) end: u64,
}

pub(super) fn grain(policy: &Policy, sector_size: u32) -> Result<u64, PlanError> {
    if policy.grain < 512 || !policy.grain.is_power_of_two() || policy.grain > 1 << 40 {
        return Err(PlanError::Grain(policy.grain));
    }
    Ok(policy.grain.max(u64::from(sector_size)))
}

pub(super) fn survey(snapshot: &Snapshot, policy: &Policy) -> Result<Ground, PlanError> {
    let grain = grain(policy, snapshot.sector_size)?;
    match usable_table(snapshot, policy)? {
        Some(gpt) => extend(snapshot, policy, gpt, grain),
        None => create(snapshot, policy, grain),
    }
}

/// A table that is there is kept.
pub(super) fn extends(snapshot: &Snapshot, policy: &Policy) -> bool {
    matches!(usable_table(snapshot, policy), Ok(Some(_)))
}

/// The table to extend, or `None` to make a new one.
fn usable_table<'a>(snapshot: &'a Snapshot, policy: &Policy) -> Result<Option<&'a Gpt>, PlanError> {
    let mode = policy.empty.name();
    let missing = || PlanError::NoTable { mode };
    match (&snapshot.table, policy.empty) {
        (TableState::Gpt(gpt), _)
            if gpt.mbr == Mbr::Missing && !policy.deviations.accept_missing_mbr =>
        {
            if policy.empty == EmptyMode::Refuse {
                Err(missing())
            } else {
                Ok(None)
            }
        }
        (TableState::Gpt(gpt), EmptyMode::Refuse | EmptyMode::Allow) => Ok(Some(gpt)),
        (TableState::Gpt(_), EmptyMode::Require) => Err(PlanError::HasTable { mode }),
        (TableState::Other(what), EmptyMode::Refuse | EmptyMode::Allow | EmptyMode::Require) => {
            Err(PlanError::OtherTable {
                what: what.clone(),
                mode,
            })
        }
        (TableState::None, EmptyMode::Refuse) => Err(missing()),
        _ => Ok(None),
    }
}

fn create(snapshot: &Snapshot, policy: &Policy, grain: u64) -> Result<Ground, PlanError> {
    let guid = policy.seed.derive(b"disk-uuid");
    let need = || PlanError::DiskTooSmall {
        len: snapshot.len,
        need: (4 + 2 * (128 * 128 / u64::from(snapshot.sector_size)))
            * u64::from(snapshot.sector_size),
    };
    let table = Table::new(guid, snapshot.len, snapshot.sector_size).ok_or_else(need)?;
    Ok(ground(snapshot, grain, table, Vec::new(), None, false))
}

fn extend(
    snapshot: &Snapshot,
    policy: &Policy,
    gpt: &Gpt,
    grain: u64,
) -> Result<Ground, PlanError> {
    let total = snapshot.len / u64::from(snapshot.sector_size);
    let mut table = gpt.table.clone();
    let moved = table.alternate_lba != total - 1;
    if moved && (policy.deviations.honest_dry_run || !policy.dry_run) {
        table.alternate_lba = total - 1;
        table.last_usable = table.last_usable_for(total, snapshot.sector_size);
    }
    let guid_fixed = table.disk_guid.is_null() && policy.deviations.derive_disk_guid;
    if guid_fixed {
        table.disk_guid = policy.seed.derive(b"disk-uuid");
    } else if table.disk_guid == Guid::NULL {
        return Err(PlanError::ZeroDiskGuid);
    }
    let limit = table.last_usable_for(total, snapshot.sector_size);
    let array_end = table
        .primary_entries_lba
        .saturating_add(table.array_sectors(snapshot.sector_size));
    let entries: Vec<Entry> = table.used().collect();
    for entry in &entries {
        let (number, first, last) = (entry.number, entry.first_lba, entry.last_lba);
        if last < first {
            return Err(PlanError::Malformed {
                number,
                first,
                last,
            });
        }
        let on_array = first < array_end && last >= table.primary_entries_lba;
        if last > limit || first < 2 || on_array {
            let (usable_first, usable_last) = (table.first_usable, limit);
            return Err(PlanError::OutOfRange {
                number,
                first,
                last,
                usable_first,
                usable_last,
            });
        }
    }
    let repair = !gpt.copies_agree
        || moved
        || guid_fixed
        || matches!(gpt.mbr, Mbr::ProtectiveOtherSize | Mbr::Missing);
    Ok(ground(snapshot, grain, table, entries, Some(gpt), repair))
}

fn ground(
    snapshot: &Snapshot,
    grain: u64,
    table: Table,
    entries: Vec<Entry>,
    gpt: Option<&Gpt>,
    needs_repair: bool,
) -> Ground {
    let sector = u64::from(snapshot.sector_size);
    let total = snapshot.len / sector;
    let last = table
        .last_usable
        .min(table.last_usable_for(total, snapshot.sector_size));
    Ground {
        start: round_up(table.first_usable.saturating_mul(sector), grain),
        end: round_down((last + 1).saturating_mul(sector), grain),
        from_scratch: gpt.is_none(),
        good_copy: gpt.map_or(Copy::Primary, |gpt| gpt.source),
        mbr: gpt.map_or(Mbr::Missing, |gpt| gpt.mbr),
        needs_repair,
        len: snapshot.len,
        sector,
        sector_size: snapshot.sector_size,
        grain,
        table,
        entries,
    }
}
