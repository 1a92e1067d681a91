//! Offsets, slots, and the finished plan (spec 2.8, 2.10).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::PlanError;
use super::geometry::Ground;
use super::items::{Current, Work};
use super::policy::Policy;
use super::{Activity, Dropped, Plan, PlannedPartition};
use crate::definition::{Definition, Verity};
use crate::gpt::{Entry, Mbr, Table};
use crate::size::round_up;
use crate::types::PartitionType;

/// Attribute bits libfdisk takes as numbers; with any other one it writes none at all.
const GUID_SPECIFIC: u64 = 0xffff_0000_0000_0000;

pub(super) fn place(work: &mut Work<'_>, ground: &Ground) -> Result<(), PlanError> {
    let mut used: BTreeSet<u32> = BTreeSet::new();
    for item in &mut work.items {
        if let Some(current) = &item.current {
            item.offset = current.offset;
            item.number = Some(current.entry.number);
        }
        used.extend(item.number);
    }
    let areas = work.area_order.clone();
    let by_area: Vec<(usize, usize)> = areas
        .into_iter()
        .flat_map(|area| booked(work, area))
        .collect();
    let mut numbered: Vec<usize> = by_area.iter().map(|(_, item)| *item).collect();
    if work.deviations.match_by_identity {
        // In the order of the definitions, so that the next run pairs those of one type the same way.
        numbered.sort_unstable();
    }
    let slots = ground.table.slots();
    for item in numbered {
        let number = work.items[item]
            .number
            .or_else(|| free_slot(work, &used, work.items[item].kind, slots));
        let needed = used.len() + 1;
        let number = number.ok_or(PlanError::TooManyPartitions { slots, needed })?;
        used.insert(number);
        work.items[item].number = Some(number);
    }
    let mut start = 0;
    let mut previous = None;
    for (area, item) in by_area {
        if previous != Some(area) {
            start = start_of(work, ground, area);
            previous = Some(area);
        }
        let it = &mut work.items[item];
        it.offset = start;
        let len = it
            .new_size
            .unwrap_or(0)
            .saturating_add(it.new_padding.unwrap_or(0));
        start = round_up(start.saturating_add(len), work.grain);
    }
    Ok(())
}

/// New items of an area, in list order.
fn booked(work: &Work<'_>, area: usize) -> Vec<(usize, usize)> {
    let items = work.order.iter().copied();
    items
        .filter(|item| work.items[*item].area == Some(area) && work.is_live(*item))
        .map(|item| (area, item))
        .collect()
}

/// Where new items of an area begin.
fn start_of(work: &Work<'_>, ground: &Ground, area: usize) -> u64 {
    let Some(item) = work.areas[area].after.map(|item| &work.items[item]) else {
        return ground.start;
    };
    let len = item
        .new_size
        .unwrap_or(0)
        .saturating_add(item.new_padding.unwrap_or(0));
    round_up(item.offset.saturating_add(len), work.grain)
}

/// The lowest unused slot above all existing ones of the type, so that the next run matches the same way.
fn free_slot(
    work: &Work<'_>,
    used: &BTreeSet<u32>,
    kind: PartitionType,
    slots: u32,
) -> Option<u32> {
    let same = work
        .items
        .iter()
        .filter(|item| item.kind == kind)
        .filter_map(|item| item.number);
    let above = same.max().unwrap_or(0);
    let free = |from: u32| (from..=slots).find(|number| !used.contains(number));
    free(above + 1).or_else(|| free(1))
}

pub(super) fn finish(work: Work<'_>, ground: Ground, policy: &Policy) -> Result<Plan, PlanError> {
    let mut partitions = Vec::new();
    let mut dropped = Vec::new();
    for &item in &work.order {
        if work.items[item].dropped {
            if let Some(definition) = work.definition(item) {
                dropped.push(Dropped {
                    definition: Arc::new(definition.clone()),
                    need: work.need(item),
                });
            }
        } else if !work.suppressed(item) {
            partitions.push(planned(&work, item, policy));
        }
    }
    partitions.sort_by_key(|partition| partition.offset);
    for partition in &partitions {
        refuse_build_only(partition)?;
    }
    let changed = partitions
        .iter()
        .any(|partition| partition.activity != Activity::Kept);
    let deleted: Vec<PlannedPartition> = work.deleted.iter().map(deleted).collect();
    let repair = ground.needs_repair && policy.deviations.repair_table;
    let write = changed || repair || ground.from_scratch || !deleted.is_empty();
    let table = if write {
        new_table(&ground, &partitions, &deleted, policy)
    } else {
        ground.table
    };
    Ok(Plan {
        partitions,
        deleted,
        dropped,
        notes: work.notes,
        disk_len: ground.len,
        sector_size: ground.sector_size,
        grain: ground.grain,
        from_scratch: ground.from_scratch,
        discard: policy.discard,
        table,
        good_copy: ground.good_copy,
        mbr: if ground.from_scratch {
            Mbr::Missing
        } else {
            ground.mbr
        },
        write,
    })
}

fn planned(work: &Work<'_>, item: usize, policy: &Policy) -> PlannedPartition {
    let it = &work.items[item];
    let current = it.current.as_ref();
    let size = it.new_size.unwrap_or(0);
    let old_size = current.map_or(0, |current| current.size);
    let definition = merged_definition(work, item).map(Arc::new);
    let attributes = match (current, &definition) {
        (Some(current), _) => current.entry.attributes,
        (None, Some(definition)) => new_attributes(definition, policy),
        (None, None) => 0,
    };
    PlannedPartition {
        number: it.number.unwrap_or(0),
        partition_type: it.kind,
        label: it.label.clone(),
        uuid: it.uuid,
        offset: it.offset,
        size,
        old_size,
        padding: it.new_padding.unwrap_or(0),
        old_padding: current.map_or(0, |current| current.padding),
        activity: match current {
            None => Activity::Created,
            Some(current) if current.size != size => Activity::Grown,
            Some(_) => Activity::Kept,
        },
        attributes,
        fs_uuid: it.fs_uuid,
        luks_uuid: it.luks_uuid,
        deferred: definition.is_some() && policy.defer.contains(&it.kind),
        definition,
    }
}

fn new_attributes(definition: &Definition, policy: &Policy) -> u64 {
    let attributes = definition.attributes();
    if policy.deviations.verbatim || attributes & !GUID_SPECIFIC == 0 {
        attributes
    } else {
        0
    }
}

/// The definition with the files of a supplement that is merged into it.
fn merged_definition(work: &Work<'_>, item: usize) -> Option<Definition> {
    let mut definition = work.definition(item)?.clone();
    if let Some(other) = work.items[item]
        .suppressing
        .and_then(|other| work.definition(other))
    {
        let content = &mut definition.content;
        let add = &other.content;
        content.copy_files.extend(add.copy_files.iter().cloned());
        content
            .exclude_files
            .extend(add.exclude_files.iter().cloned());
        content
            .exclude_files_target
            .extend(add.exclude_files_target.iter().cloned());
        content
            .make_directories
            .extend(add.make_directories.iter().cloned());
        content
            .make_symlinks
            .extend(add.make_symlinks.iter().cloned());
        content.subvolumes.extend(add.subvolumes.iter().cloned());
    }
    Some(definition)
}

fn refuse_build_only(partition: &PlannedPartition) -> Result<(), PlanError> {
    let Some(definition) = partition.definition().filter(|_| partition.is_created()) else {
        return Ok(());
    };
    let mut keys = definition.content.build_only.clone();
    match definition.content.verity {
        Verity::Hash => keys.push("Verity=hash".to_owned()),
        Verity::Signature => keys.push("Verity=signature".to_owned()),
        Verity::Off | Verity::Data => {}
    }
    if keys.is_empty() {
        return Ok(());
    }
    Err(PlanError::BuildOnly {
        path: definition.path.clone(),
        keys: keys.join(", "),
    })
}

fn deleted(current: &Current) -> PlannedPartition {
    PlannedPartition {
        number: current.entry.number,
        partition_type: current.entry.partition_type,
        label: current.entry.label.clone(),
        uuid: current.entry.guid,
        offset: current.offset,
        size: 0,
        old_size: current.size,
        padding: 0,
        old_padding: 0,
        activity: Activity::Deleted,
        attributes: current.entry.attributes,
        fs_uuid: current.entry.guid.derive(b"file-system-uuid"),
        luks_uuid: current.entry.guid.derive(b"luks-uuid"),
        deferred: false,
        definition: None,
    }
}

/// The array afterwards. Only what changes is encoded anew.
fn new_table(
    ground: &Ground,
    partitions: &[PlannedPartition],
    deleted: &[PlannedPartition],
    policy: &Policy,
) -> Table {
    let mut table = ground.table.clone();
    for partition in deleted {
        table.clear(partition.number);
    }
    for partition in partitions.iter().filter(|partition| !partition.deferred) {
        let first_lba = partition.offset / ground.sector;
        let last_lba = (partition.end() / ground.sector).saturating_sub(1);
        if partition.activity == Activity::Grown {
            table.set_last_lba(partition.number, last_lba);
        }
        let completed = table.entry(partition.number).is_none_or(|old| {
            partition.definition().is_some()
                && (old.guid != partition.uuid || old.label != partition.label)
        });
        if completed {
            let label = partition.label.clone();
            // libfdisk drops a name it cannot put into UCS-2.
            let droppable =
                !policy.deviations.verbatim && label.chars().any(|c| u32::from(c) > 0xffff);
            table.set(&Entry {
                number: partition.number,
                partition_type: partition.partition_type,
                guid: partition.uuid,
                first_lba,
                last_lba,
                attributes: partition.attributes,
                label: if droppable { String::new() } else { label },
            });
        }
    }
    table
}
