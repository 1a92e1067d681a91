//! The decision: which set of definitions, which partitions, which files. Reads only.
//!
//! Invariant: a choice that is returned changes no entry of the table that is there, and everything in it fits.

use std::fmt;

use repart::{
    Disk, EmptyMode, Guid, ObserveError, Plan, Policy, Snapshot, TableState, observe, plan,
};

use super::error::{InstallError, Refusal, Unfit};
use super::place::{Placement, place};
use super::sets::{Set, fit};
use super::source::Source;

const BLOCK: usize = 1 << 20;

/// What will be done.
pub(super) struct Choice {
    /// Name of the set.
    pub(super) set: String,
    pub(super) plan: Plan,
    pub(super) placement: Placement,
    /// Why the sets before it were left.
    pub(super) refused: Vec<Refusal>,
    /// Partitions of other systems on the disk.
    pub(super) others: usize,
}

/// Decides.
pub(super) fn choose(
    disk: &dyn Disk,
    name: &str,
    source: &Source,
    sets: &[Set],
    seed: Guid,
) -> Result<Choice, InstallError> {
    let fail = |source: ObserveError| InstallError::Observe {
        disk: name.to_owned(),
        source,
    };
    let snapshot = observe(disk).map_err(fail)?;
    if snapshot.table == TableState::None {
        blank(disk, name)?;
    }
    let mut policy = Policy::new(seed, seed.derive(b"install"));
    policy.empty = EmptyMode::Allow;
    policy.fs_sector_size = u64::from(snapshot.sector_size);
    let mut refused = Vec::new();
    for set in sets {
        match try_set(disk, &snapshot, source, set, &policy) {
            Ok((plan, placement)) => {
                let choice = Choice {
                    set: set.name.clone(),
                    others: others(&snapshot, source, &placement),
                    plan,
                    placement,
                    refused,
                };
                already_there(disk, source, &choice.plan)?;
                return Ok(choice);
            }
            Err(refusal) => refused.push(refusal),
        }
    }
    Err(InstallError::NothingFits {
        disk: name.to_owned(),
        reasons: refused,
    })
}

fn try_set(
    disk: &dyn Disk,
    snapshot: &Snapshot,
    source: &Source,
    set: &Set,
    policy: &Policy,
) -> Result<(Plan, Placement), Refusal> {
    let refuse = |why: Unfit| Refusal {
        set: set.name.clone(),
        why: Box::new(why),
    };
    let fitted = fit(set, snapshot, source)?;
    let mut policy = policy.clone();
    policy.defer.clone_from(&fitted.defer);
    let plan =
        plan(snapshot, &fitted.definitions, &policy).map_err(|error| refuse(error.into()))?;
    untouched(snapshot, &plan).map_err(refuse)?;
    all_there(source, &plan).map_err(refuse)?;
    let mut placement = place(disk, &plan, source).map_err(refuse)?;
    placement.notes.extend(fitted.notes);
    Ok((plan, placement))
}

/// No entry that is there may change: repart's own check lets matched ones grow.
fn untouched(snapshot: &Snapshot, plan: &Plan) -> Result<(), Unfit> {
    let TableState::Gpt(gpt) = &snapshot.table else {
        return Ok(());
    };
    for entry in gpt.table.used() {
        if plan.table().raw(entry.number) != gpt.table.raw(entry.number) {
            return Err(Unfit::Definitions(format!(
                "partition {} ({}) would be changed, which an installer does not do",
                entry.number, entry.label
            )));
        }
    }
    Ok(())
}

/// No part of the system may fall victim to its definition's priority.
fn all_there(source: &Source, plan: &Plan) -> Result<(), Unfit> {
    for part in &source.parts {
        let there = plan.partitions.iter().any(|it| {
            it.partition_type == part.kind && it.uuid == part.uuid && it.size >= part.size
        });
        if !there {
            let mut text = format!(
                "{} ({} bytes) would not be on the disk",
                part.kind.name_or_uuid(),
                part.size
            );
            for note in &plan.notes {
                text.push_str(&format!("; {note}"));
            }
            return Err(Unfit::Definitions(text));
        }
    }
    Ok(())
}

/// Partitions that are neither ours nor a boot volume that needs nothing any more.
fn others(snapshot: &Snapshot, source: &Source, placement: &Placement) -> usize {
    let TableState::Gpt(gpt) = &snapshot.table else {
        return 0;
    };
    let parts = |uuid: Guid| source.parts.iter().any(|part| part.uuid == uuid);
    let volumes = |number: u32| {
        let mut all = placement.volumes.iter();
        all.any(|volume| volume.number == number && volume.missing().next().is_none())
    };
    let all = gpt.table.used();
    all.filter(|entry| !parts(entry.guid) && !volumes(entry.number))
        .count()
}

/// A disk without a table may hold a file system all the same.
fn blank(disk: &dyn Disk, name: &str) -> Result<(), InstallError> {
    let len = disk.len();
    let block = len.min(1 << 20);
    for start in [0, len - block] {
        let mut bytes = vec![0; usize::try_from(block).unwrap_or(0)];
        disk.read_at(start, &mut bytes)
            .map_err(InstallError::io(format!("read {name}")))?;
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            let offset = start + u64::try_from(at).unwrap_or(0);
            return Err(InstallError::NotBlank {
                disk: name.to_owned(),
                offset,
            });
        }
    }
    Ok(())
}

/// A partition that an earlier run installed has to be whole.
fn already_there(disk: &dyn Disk, source: &Source, plan: &Plan) -> Result<(), InstallError> {
    for partition in plan.partitions.iter().filter(|it| !it.is_created()) {
        let same = |part: &&super::source::Part| {
            part.uuid == partition.uuid && part.kind == partition.partition_type
        };
        let Some(part) = source.parts.iter().find(same) else {
            continue;
        };
        let mut pair = [vec![0; BLOCK], vec![0; BLOCK]];
        let mut at = 0;
        while at < part.size {
            let len = usize::try_from(part.size - at).map_or(BLOCK, |left| left.min(BLOCK));
            let [here, there] = &mut pair;
            disk.read_at(partition.offset + at, &mut here[..len])
                .map_err(InstallError::io(format!(
                    "read partition {}",
                    partition.number
                )))?;
            source
                .disk
                .read_at(part.offset + at, &mut there[..len])
                .map_err(InstallError::io(format!("read {}", source.name)))?;
            if here[..len] != there[..len] {
                return Err(InstallError::Differs {
                    number: partition.number,
                    uuid: part.uuid.to_string(),
                    offset: at,
                });
            }
            at += u64::try_from(len).unwrap_or(part.size);
        }
    }
    Ok(())
}

/// The dry run.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for refusal in &self.refused {
            writeln!(f, "does not fit: {refusal}")?;
        }
        writeln!(f, "using {}", self.set)?;
        write!(f, "{}", self.plan)?;
        for volume in &self.placement.volumes {
            for put in &volume.puts {
                let state = if put.present { "there" } else { "new" };
                writeln!(f, "  {:>3}  {state:<8} {}", volume.number, put.path)?;
            }
        }
        for note in &self.placement.notes {
            writeln!(f, "  note: {note}")?;
        }
        Ok(())
    }
}
