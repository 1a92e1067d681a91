//! The list the algorithm works on: definitions in order, then foreign partitions; and the free areas
//! between them (spec 2.2, 2.3, 2.7).

use std::collections::BTreeSet;

use super::error::PlanError;
use super::geometry::Ground;
use super::policy::{Deviations, Policy};
use crate::definition::{Definition, Definitions, Encrypt, Format, Verity};
use crate::gpt::Entry;
use crate::guid::Guid;
use crate::size::{round_down, round_up};
use crate::types::PartitionType;

/// Size of a signature partition.
const VERITY_SIG_SIZE: u64 = 16 << 10;
/// Smallest partition.
const HARD_MIN: u64 = 4096;
/// Smallest partition of a definition that says nothing.
const DEFAULT_MIN: u64 = 10 << 20;
/// Room for a LUKS2 header.
const LUKS2_HEADER: u64 = 32 << 20;

/// A partition that is on the disk.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub(super) entry: Entry,
    pub(super) offset: u64,
    pub(super) size: u64,
    /// Free bytes behind it.
    pub(super) padding: u64,
}

/// One item of the list.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Index of the definition; `None` = foreign.
    pub(super) definition: Option<usize>,
    pub(super) kind: PartitionType,
    pub(super) current: Option<Current>,
    pub(super) dropped: bool,
    /// The item this one is merged into as long as that one's `suppressing` names it.
    pub(super) supplement_for: Option<usize>,
    pub(super) suppressing: Option<usize>,
    /// The area a new one is booked in.
    pub(super) area: Option<usize>,
    pub(super) new_size: Option<u64>,
    pub(super) new_padding: Option<u64>,
    pub(super) offset: u64,
    pub(super) number: Option<u32>,
    pub(super) uuid: Guid,
    pub(super) label: String,
    pub(super) fs_uuid: Guid,
    pub(super) luks_uuid: Guid,
}

/// A stretch of free space.
#[derive(Clone, Debug)]
pub(super) struct Area {
    /// The item before it.
    pub(super) after: Option<usize>,
    pub(super) size: u64,
    pub(super) booked: u64,
}

/// Everything between loading and placing.
pub(super) struct Work<'a> {
    pub(super) definitions: Vec<&'a Definition>,
    pub(super) items: Vec<Item>,
    /// List order.
    pub(super) order: Vec<usize>,
    pub(super) areas: Vec<Area>,
    /// Areas as last sorted.
    pub(super) area_order: Vec<usize>,
    pub(super) deleted: Vec<Current>,
    pub(super) notes: Vec<String>,
    pub(super) grain: u64,
    pub(super) deviations: Deviations,
    fs_sector_size: u64,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        ground: &Ground,
        definitions: &'a Definitions,
        policy: &Policy,
    ) -> Result<Self, PlanError> {
        Self::empty(definitions, policy, ground.grain, ground.sector_size)
    }

    /// One item a definition, nothing on the disk.
    pub(super) fn empty(
        definitions: &'a Definitions,
        policy: &Policy,
        grain: u64,
        sector_size: u32,
    ) -> Result<Self, PlanError> {
        let definitions: Vec<&Definition> = definitions.list.iter().collect();
        let mut items: Vec<Item> = definitions
            .iter()
            .enumerate()
            .map(|(at, definition)| Item::new(Some(at), definition.partition_type))
            .collect();
        for (at, definition) in definitions.iter().enumerate() {
            let Some(target) = &definition.supplement_for else {
                continue;
            };
            let Some(found) = definitions.iter().position(|other| other.name() == target) else {
                return Err(PlanError::SupplementExcluded {
                    path: definition.path.clone(),
                    target: target.clone(),
                });
            };
            items[at].supplement_for = Some(found);
            items[found].suppressing = Some(at);
        }
        Ok(Self {
            order: (0..items.len()).collect(),
            definitions,
            items,
            areas: Vec::new(),
            area_order: Vec::new(),
            deleted: Vec::new(),
            notes: Vec::new(),
            grain,
            deviations: policy.deviations,
            fs_sector_size: policy.fs_sector_size.max(u64::from(sector_size)),
        })
    }

    /// Matches entries with definitions and finds the free areas.
    pub(super) fn load(&mut self, ground: &Ground, policy: &Policy) {
        let mut entries: Vec<Current> = ground
            .entries
            .iter()
            .map(|entry| current(entry, ground.sector))
            .collect();
        let owners = self.match_entries(&entries);
        let mut reset = BTreeSet::new();
        if policy.factory_reset {
            for (at, owner) in owners.iter().enumerate() {
                if owner.is_some_and(|item| {
                    self.definition(item)
                        .is_some_and(|definition| definition.factory_reset)
                }) {
                    reset.insert(at);
                }
            }
        }
        let mut at = 0;
        let mut kept_owners = Vec::new();
        entries.retain(|entry| {
            let gone = reset.contains(&at);
            if gone {
                if policy.deviations.match_by_identity
                    && let Some(item) = owners[at]
                {
                    // The next run matches by slot order: in another slot a neighbour would get the definition.
                    self.items[item].number = Some(entry.entry.number);
                }
                self.deleted.push(entry.clone());
            } else {
                kept_owners.push(owners[at]);
            }
            at += 1;
            !gone
        });
        if !reset.is_empty() && !policy.deviations.match_by_identity {
            kept_owners = self.match_entries(&entries);
        }
        set_paddings(&mut entries, ground);
        self.adopt(entries, &kept_owners);
        self.find_areas(ground);
    }

    /// For each entry, in slot order, the first definition of its type that has none yet.
    fn match_entries(&self, entries: &[Current]) -> Vec<Option<usize>> {
        let mut taken = vec![false; self.items.len()];
        let mut owners = Vec::with_capacity(entries.len());
        for entry in entries {
            let found = (0..taken.len())
                .find(|item| !taken[*item] && self.items[*item].kind == entry.entry.partition_type);
            if let Some(item) = found {
                taken[item] = true;
            }
            owners.push(found);
        }
        owners
    }

    fn adopt(&mut self, entries: Vec<Current>, owners: &[Option<usize>]) {
        for (entry, owner) in entries.into_iter().zip(owners) {
            match owner {
                Some(item) => {
                    self.items[*item].current = Some(entry);
                    // A supplement that exists is no longer merged.
                    if let Some(target) = self.items[*item].supplement_for {
                        self.items[target].suppressing = None;
                    }
                }
                None => {
                    let mut item = Item::new(None, entry.entry.partition_type);
                    item.current = Some(entry);
                    self.order.push(self.items.len());
                    self.items.push(item);
                }
            }
        }
    }

    /// Areas in slot order of the partition before them, the one at the front last.
    fn find_areas(&mut self, ground: &Ground) {
        let mut existing: Vec<usize> = self
            .order
            .iter()
            .copied()
            .filter(|item| self.items[*item].current.is_some())
            .collect();
        existing.sort_by_key(|item| {
            self.items[*item]
                .current
                .as_ref()
                .map(|current| current.entry.number)
        });
        for item in &existing {
            let size = self.items[*item]
                .current
                .as_ref()
                .map_or(0, |current| current.padding);
            if size > 0 {
                self.areas.push(Area {
                    after: Some(*item),
                    size,
                    booked: 0,
                });
            }
        }
        let lowest = existing
            .iter()
            .filter_map(|item| self.items[*item].current.as_ref())
            .map(|current| current.offset)
            .min();
        let end = lowest.map_or(ground.end, |offset| {
            round_down(offset, self.grain).min(ground.end)
        });
        let size = end.saturating_sub(ground.start);
        if size > 0 {
            self.areas.push(Area {
                after: None,
                size,
                booked: 0,
            });
        }
        self.area_order = (0..self.areas.len()).collect();
    }

    pub(super) fn definition(&self, item: usize) -> Option<&'a Definition> {
        self.definitions.get(self.items[item].definition?).copied()
    }

    pub(super) fn is_foreign(&self, item: usize) -> bool {
        self.items[item].definition.is_none()
    }

    /// Merged into another item.
    pub(super) fn suppressed(&self, item: usize) -> bool {
        self.items[item]
            .supplement_for
            .is_some_and(|target| self.items[target].suppressing == Some(item))
    }

    /// It takes part in fitting, growing and placing.
    pub(super) fn is_live(&self, item: usize) -> bool {
        !self.items[item].dropped && !self.suppressed(item)
    }

    pub(super) fn priority(&self, item: usize) -> i32 {
        self.definition(item)
            .map_or(0, |definition| definition.priority)
    }

    /// The definition and the one merged into it.
    fn both(&self, item: usize) -> (Option<&'a Definition>, Option<&'a Definition>) {
        (
            self.definition(item),
            self.items[item]
                .suppressing
                .and_then(|other| self.definition(other)),
        )
    }

    pub(super) fn weight(&self, item: usize) -> u64 {
        let (own, merged) = self.both(item);
        merged
            .or(own)
            .map_or(1000, |definition| definition.weight.into())
    }

    pub(super) fn padding_weight(&self, item: usize) -> u64 {
        let (own, merged) = self.both(item);
        merged
            .or(own)
            .map_or(0, |definition| definition.padding_weight.into())
    }

    /// Smallest size, in bytes.
    pub(super) fn min_size(&self, item: usize) -> u64 {
        let existing = self.items[item]
            .current
            .as_ref()
            .map(|current| current.size);
        let (own, merged) = self.both(item);
        let Some(own) = own else {
            return existing.unwrap_or(0);
        };
        if self.items[item].kind.is_verity_sig() {
            // systemd-repart says 16 KiB even of a larger one, and then fails an assertion.
            return existing.map_or(VERITY_SIG_SIZE, |size| size.max(VERITY_SIG_SIZE));
        }
        let base = existing.unwrap_or_else(|| self.content_size(own).max(HARD_MIN));
        let wanted = larger_minimum(own.size_min, merged.map(|other| other.size_min));
        let default = if is_exact_size(own) { 1 } else { DEFAULT_MIN };
        round_up(wanted.unwrap_or(default), self.grain).max(base)
    }

    /// What contents need at least.
    fn content_size(&self, definition: &Definition) -> u64 {
        let content = &definition.content;
        let encrypted = content.encrypt != Encrypt::Off;
        let header = if encrypted {
            round_up(LUKS2_HEADER, self.grain)
        } else {
            0
        };
        let formatted = content
            .format
            .as_ref()
            .is_some_and(|format| *format != Format::Empty);
        let payload = match (content.copy_blocks_size, formatted || encrypted) {
            (Some(bytes), _) => round_up(bytes, self.grain),
            (None, false) => 0,
            (None, true) => {
                let minimum = definition.file_system_minimum(self.fs_sector_size);
                minimum.map_or(self.grain, |bytes| round_up(bytes, self.grain))
            }
        };
        header.saturating_add(payload)
    }

    /// Largest size, in bytes.
    pub(super) fn max_size(&self, item: usize) -> u64 {
        let existing = self.items[item]
            .current
            .as_ref()
            .map(|current| current.size);
        let (own, merged) = self.both(item);
        let Some(own) = own else {
            return existing.unwrap_or(0);
        };
        let min = self.min_size(item);
        if self.items[item].kind.is_verity_sig() {
            return min;
        }
        let limits = [own.size_max, merged.and_then(|other| other.size_max)];
        match limits.into_iter().flatten().min() {
            None => u64::MAX,
            Some(limit) => round_down(limit, self.grain)
                .max(existing.unwrap_or(0))
                .max(min),
        }
    }

    /// systemd's rule: merged, a padding minimum counts only if both sides have one.
    pub(super) fn min_padding(&self, item: usize) -> u64 {
        let (own, merged) = self.both(item);
        let own = own.and_then(|definition| definition.padding_min);
        match (own, merged) {
            (own, None) => own.unwrap_or(0),
            (Some(own), Some(merged)) => merged.padding_min.map_or(0, |other| other.max(own)),
            (None, Some(_)) => 0,
        }
    }

    pub(super) fn max_padding(&self, item: usize) -> u64 {
        let (own, merged) = self.both(item);
        [own, merged]
            .into_iter()
            .flatten()
            .filter_map(|definition| definition.padding_max)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Minimum with padding, rounded so that what follows is aligned.
    pub(super) fn need(&self, item: usize) -> u64 {
        let sum = self.min_size(item).saturating_add(self.min_padding(item));
        match &self.items[item].current {
            Some(current) => round_up(current.offset.saturating_add(sum), self.grain)
                .saturating_sub(current.offset),
            None => round_up(sum, self.grain),
        }
    }

    /// Nothing is made, nothing grows.
    pub(super) fn leave_everything(&mut self) {
        for item in &mut self.items {
            item.definition = None;
            item.dropped = item.current.is_none();
            item.number = item.current.as_ref().map(|current| current.entry.number);
            item.offset = item.current.as_ref().map_or(0, |current| current.offset);
        }
    }

    /// It may stay as it is. A signature partition that is larger than it has to be need not grow.
    pub(super) fn may_stay(&self, item: usize) -> bool {
        let Some(current) = &self.items[item].current else {
            return false;
        };
        let there = current.size.saturating_add(current.padding);
        let sum = self.min_size(item).saturating_add(self.min_padding(item));
        let sig_sum = current
            .offset
            .saturating_add(VERITY_SIG_SIZE)
            .saturating_add(self.min_padding(item));
        let sig_fits = round_up(sig_sum, self.grain).saturating_sub(current.offset) <= there;
        there >= self.need(item)
            || self.deviations.exact_unaligned && sum <= there
            || self.items[item].kind.is_verity_sig() && current.size >= VERITY_SIG_SIZE && sig_fits
    }

    /// List order of 262: by position, new ones behind what they follow, the rest last (spec 2.7).
    pub(super) fn reorder(&mut self) {
        let booked = |area: usize| {
            let items = &self.items;
            self.order
                .iter()
                .copied()
                .filter(move |item| items[*item].area == Some(area) && !items[*item].dropped)
        };
        let mut order = Vec::with_capacity(self.order.len());
        for (at, area) in self.areas.iter().enumerate() {
            if area.after.is_none() {
                order.extend(booked(at));
            }
        }
        let mut existing: Vec<usize> = self
            .order
            .iter()
            .copied()
            .filter(|item| self.items[*item].current.is_some())
            .collect();
        existing.sort_by_key(|item| {
            self.items[*item]
                .current
                .as_ref()
                .map(|current| current.offset)
        });
        for item in existing {
            order.push(item);
            if let Some(area) = self.areas.iter().position(|area| area.after == Some(item)) {
                order.extend(booked(area));
            }
        }
        let seen: BTreeSet<usize> = order.iter().copied().collect();
        let rest: Vec<usize> = self
            .order
            .iter()
            .copied()
            .filter(|item| !seen.contains(item))
            .collect();
        order.extend(rest);
        self.order = order;
    }
}

impl Item {
    fn new(definition: Option<usize>, kind: PartitionType) -> Self {
        Self {
            definition,
            kind,
            current: None,
            dropped: false,
            supplement_for: None,
            suppressing: None,
            area: None,
            new_size: None,
            new_padding: None,
            offset: 0,
            number: None,
            uuid: Guid::NULL,
            label: String::new(),
            fs_uuid: Guid::NULL,
            luks_uuid: Guid::NULL,
        }
    }
}

fn current(entry: &Entry, sector: u64) -> Current {
    let sectors = (entry.last_lba - entry.first_lba).saturating_add(1);
    Current {
        offset: entry.first_lba.saturating_mul(sector),
        size: sectors.saturating_mul(sector),
        padding: 0,
        entry: entry.clone(),
    }
}

/// The hole behind each entry. Where entries overlap, it belongs to the one that reaches furthest.
fn set_paddings(entries: &mut [Current], ground: &Ground) {
    let mut by_offset: Vec<usize> = (0..entries.len()).collect();
    by_offset.sort_by_key(|at| (entries[*at].offset, entries[*at].entry.number));
    let mut furthest: Option<usize> = None;
    for (position, at) in by_offset.iter().enumerate() {
        let end = |at: usize| entries[at].offset.saturating_add(entries[at].size);
        if furthest.is_none_or(|other| end(*at) >= end(other)) {
            furthest = Some(*at);
        }
        let Some(owner) = furthest else { continue };
        let next = by_offset
            .get(position + 1)
            .map_or(ground.end, |next| entries[*next].offset);
        let limit = round_down(next, ground.grain).min(ground.end);
        let padding = limit.saturating_sub(round_up(end(owner), ground.grain));
        entries[owner].padding = padding;
    }
}

/// systemd's rule: an unset minimum of the supplement counts as infinitely large, and so gives "unset".
fn larger_minimum(own: Option<u64>, merged: Option<Option<u64>>) -> Option<u64> {
    match (own, merged) {
        (own, None) => own,
        (None, Some(other)) => other,
        (Some(_), Some(None)) => None,
        (Some(own), Some(Some(other))) => Some(own.max(other)),
    }
}

/// Its size is that of its content: no default minimum.
fn is_exact_size(definition: &Definition) -> bool {
    let content = &definition.content;
    content.verity != Verity::Off || content.format.as_ref().is_some_and(Format::is_read_only)
}
