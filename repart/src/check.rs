//! An independent linter of plans: knows nothing of how a plan was made, only what it may never do.
//!
//! Invariant: a plan that passes cannot touch what it does not own. No overlap, inside the usable range, aligned;
//! an entry that is not in the plan's own list of changes stays byte-identical; what exists at most grows.

use crate::gpt::{Entry, Snapshot, TableState};
use crate::plan::{Activity, Plan, PlannedPartition};

/// What is wrong with a plan. Always a defect of the planner or a disk that changed in between.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum CheckError {
    #[error("made for a disk of {planned} bytes, this one has {len}")]
    OtherDisk { planned: u64, len: u64 },
    #[error(
        "partition {number} is at sectors {first}…{last}, usable are {usable_first}…{usable_last}"
    )]
    OutOfRange {
        number: u32,
        first: u64,
        last: u64,
        usable_first: u64,
        usable_last: u64,
    },
    #[error("partitions {first} and {second} overlap")]
    Overlap { first: u32, second: u32 },
    #[error("new partition {number} is at offset {offset} with {size} bytes, the grain is {grain}")]
    Unaligned {
        number: u32,
        offset: u64,
        size: u64,
        grain: u64,
    },
    #[error("partition {number} is not in the table as planned")]
    NotAsPlanned { number: u32 },
    #[error("partition {number} would be lost or changed though no definition asks for that")]
    ForeignTouched { number: u32 },
    #[error("partition {number} would move, shrink or change its identity")]
    IdentityChanged { number: u32 },
    #[error("the table would get {planned} slots, it has {there}")]
    SlotsChanged { planned: u32, there: u32 },
}

/// Checks a plan against what it was made from.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(snapshot: &Snapshot, plan: &Plan) -> Result<(), CheckError> {
    if plan.disk_len != snapshot.len || plan.sector_size != snapshot.sector_size {
        return Err(CheckError::OtherDisk {
            planned: plan.disk_len,
            len: snapshot.len,
        });
    }
    if !plan.changes_disk() {
        return unchanged(snapshot, plan);
    }
    check_range_and_overlap(snapshot, plan)?;
    for partition in plan
        .partitions
        .iter()
        .filter(|partition| !partition.deferred)
    {
        check_planned(plan, partition)?;
    }
    match &snapshot.table {
        TableState::Gpt(gpt) if !plan.from_scratch => {
            let (planned, there) = (plan.table().slots(), gpt.table.slots());
            if planned != there {
                return Err(CheckError::SlotsChanged { planned, there });
            }
            gpt.table
                .used()
                .try_for_each(|old| check_kept(plan, &old, gpt.table.raw(old.number)))
        }
        _ => Ok(()),
    }
}

fn unchanged(snapshot: &Snapshot, plan: &Plan) -> Result<(), CheckError> {
    let TableState::Gpt(gpt) = &snapshot.table else {
        return Ok(());
    };
    for old in gpt.table.used() {
        if plan.table().raw(old.number) != gpt.table.raw(old.number) {
            return Err(CheckError::ForeignTouched { number: old.number });
        }
    }
    Ok(())
}

fn check_range_and_overlap(snapshot: &Snapshot, plan: &Plan) -> Result<(), CheckError> {
    let sector = u64::from(plan.sector_size);
    let table = plan.table();
    let total = snapshot.len / sector;
    let limit = table
        .last_usable
        .min(table.last_usable_for(total, plan.sector_size));
    let mut entries: Vec<Entry> = table.used().collect();
    entries.sort_by_key(|entry| entry.first_lba);
    let is_new = |number: u32| {
        plan.partitions
            .iter()
            .any(|partition| partition.number == number && partition.is_created())
    };
    let has_grown = |number: u32| {
        let grown = |partition: &&PlannedPartition| {
            partition.activity == Activity::Grown && !partition.deferred
        };
        plan.partitions
            .iter()
            .filter(grown)
            .any(|partition| partition.number == number)
    };
    for entry in &entries {
        let (number, first, last) = (entry.number, entry.first_lba, entry.last_lba);
        let (usable_first, usable_last) = (table.first_usable, limit);
        let new = is_new(number);
        if last < first || last > usable_last || new && first < usable_first {
            return Err(CheckError::OutOfRange {
                number,
                first,
                last,
                usable_first,
                usable_last,
            });
        }
    }
    for (at, entry) in entries.iter().enumerate() {
        for other in entries[at + 1..]
            .iter()
            .take_while(|other| other.first_lba <= entry.last_lba)
        {
            // Old entries that overlap each other are somebody else's trouble; ours may not overlap anything.
            if [entry.number, other.number]
                .into_iter()
                .any(|number| is_new(number) || has_grown(number))
            {
                return Err(CheckError::Overlap {
                    first: entry.number,
                    second: other.number,
                });
            }
        }
    }
    Ok(())
}

fn check_planned(plan: &Plan, partition: &PlannedPartition) -> Result<(), CheckError> {
    let number = partition.number;
    let sector = u64::from(plan.sector_size);
    let Some(entry) = plan.table().entry(number) else {
        return Err(CheckError::NotAsPlanned { number });
    };
    let first = entry.first_lba.saturating_mul(sector);
    let end = entry.last_lba.saturating_add(1).saturating_mul(sector);
    if first != partition.offset
        || end != partition.end()
        || entry.partition_type != partition.partition_type
    {
        return Err(CheckError::NotAsPlanned { number });
    }
    let (offset, size, grain) = (partition.offset, partition.size, plan.grain);
    // Signature partitions have 16 KiB, whatever the grain.
    let aligned = offset % grain == 0 && size % grain.min(4096) == 0 && size > 0;
    if partition.activity == Activity::Created && !aligned {
        return Err(CheckError::Unaligned {
            number,
            offset,
            size,
            grain,
        });
    }
    Ok(())
}

/// One entry that was there before.
fn check_kept(plan: &Plan, old: &Entry, raw: Option<&[u8]>) -> Result<(), CheckError> {
    let number = old.number;
    let deleted = plan
        .deleted
        .iter()
        .any(|partition| partition.number == number);
    if deleted {
        return Ok(());
    }
    let planned = plan
        .partitions
        .iter()
        .find(|partition| partition.number == number && partition.old_size > 0);
    let ours = planned.is_some_and(|partition| partition.definition().is_some());
    if !ours {
        let same = plan.table().raw(number) == raw;
        return if same {
            Ok(())
        } else {
            Err(CheckError::ForeignTouched { number })
        };
    }
    let Some(new) = plan.table().entry(number) else {
        return Err(CheckError::ForeignTouched { number });
    };
    let same_identity = new.partition_type == old.partition_type
        && new.first_lba == old.first_lba
        && new.attributes == old.attributes
        && (old.guid.is_null() || new.guid == old.guid)
        && (old.label.is_empty() || new.label == old.label);
    if !same_identity || new.last_lba < old.last_lba {
        return Err(CheckError::IdentityChanged { number });
    }
    Ok(())
}
