//! The list the algorithm works on: definitions in order, then foreign partitions; and the free areas
//! between them (spec 2.2, 2.7).

use std::collections::BTreeSet;

use super::error::PlanError;
use super::geometry::Ground;
use super::policy::{Deviations, Policy};
use crate::definition::{Definition, Definitions};
use crate::gpt::Entry;
use crate::guid::Guid;
use crate::size::{round_down, round_up};
use crate::types::PartitionType;

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
    pub(super) fs_sector_size: u64,
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

    /// Nothing is made, nothing grows.
    pub(super) fn leave_everything(&mut self) {
        for item in &mut self.items {
            item.definition = None;
            item.dropped = item.current.is_none();
            item.number = item.current.as_ref().map(|current| current.entry.number);
            item.offset = item.current.as_ref().map_or(0, |current| current.offset);
        }
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
