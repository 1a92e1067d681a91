//! Does it fit? First fit over areas sorted by room; else supplements are split off, else a priority is
//! dropped (spec 2.4, 2.6, 5.9).

use std::collections::BTreeSet;

use super::error::{PlanError, Unfit};
use super::items::Work;
use crate::definition::Verity;
use crate::size::round_up;

/// Combinations of split-off supplements that are tried. Twelve supplements are far more than anybody has.
const COMBINATIONS_MAX: usize = 4096;

pub(super) fn fit(work: &mut Work<'_>) -> Result<(), PlanError> {
    loop {
        let Err(unfit) = attempt(work) else {
            return Ok(());
        };
        if split_supplements(work, &mut BTreeSet::new()) {
            return Ok(());
        }
        if !drop_one_priority(work) {
            return Err(PlanError::Unfit(Box::new(unfit)));
        }
    }
}

/// One try: books every new item in the first area that has room.
fn attempt(work: &mut Work<'_>) -> Result<(), Unfit> {
    for area in &mut work.areas {
        area.booked = 0;
    }
    for item in &mut work.items {
        item.area = None;
    }
    let mut sorted = work.area_order.clone();
    sorted.sort_by_key(|area| work.room(*area));
    work.area_order = sorted;
    for area in 0..work.areas.len() {
        if let Some(item) = work.areas[area].after
            && work.current_end(area) < work.needed_end(item)
        {
            return Err(work.cannot_grow(item));
        }
    }
    for item in work.order.clone() {
        if !work.is_live(item) || work.is_foreign(item) {
            continue;
        }
        let need = work.need(item);
        if work.items[item].current.is_some() {
            if !work.may_stay(item) {
                return Err(work.cannot_grow(item));
            }
            continue;
        }
        let Some(area) = work
            .area_order
            .iter()
            .copied()
            .find(|area| work.room(*area) >= need)
        else {
            return Err(work.cannot_create(item));
        };
        work.items[item].area = Some(area);
        work.areas[area].booked = work.areas[area].booked.saturating_add(need);
    }
    Ok(())
}

impl Work<'_> {
    /// Where an area ends, less what is booked.
    fn current_end(&self, area: usize) -> u64 {
        let area = &self.areas[area];
        let start = area
            .after
            .and_then(|item| self.items[item].current.as_ref());
        let start = start.map_or(0, |current| {
            round_up(current.offset.saturating_add(current.size), self.grain)
        });
        start.saturating_add(area.size).saturating_sub(area.booked)
    }

    /// Where an existing item ends once it has what it needs.
    fn needed_end(&self, item: usize) -> u64 {
        let offset = self.items[item]
            .current
            .as_ref()
            .map_or(0, |current| current.offset);
        round_up(offset.saturating_add(self.need(item)), self.grain)
    }

    /// Bytes for new items.
    fn room(&self, area: usize) -> u64 {
        let taken = self.areas[area]
            .after
            .map_or(0, |item| self.needed_end(item));
        self.current_end(area).saturating_sub(taken)
    }

    fn cannot_grow(&self, item: usize) -> Unfit {
        let current = self.items[item].current.as_ref();
        let offset = current.map_or(0, |current| current.offset);
        let next = self
            .items
            .iter()
            .filter_map(|other| other.current.as_ref())
            .filter(|other| other.offset > offset);
        Unfit::Existing {
            number: current.map_or(0, |current| current.entry.number),
            label: self.items[item].label.clone(),
            path: self
                .definition(item)
                .map(|definition| definition.path.clone())
                .unwrap_or_default(),
            size: current.map_or(0, |current| current.size),
            need: self.need(item),
            free: current.map_or(0, |current| current.padding),
            next: next
                .min_by_key(|other| other.offset)
                .map(|other| other.entry.number),
        }
    }

    fn cannot_create(&self, item: usize) -> Unfit {
        let largest = (0..self.areas.len()).max_by_key(|area| self.room(*area));
        let after = largest.and_then(|area| self.areas[area].after);
        Unfit::New {
            path: self
                .definition(item)
                .map(|definition| definition.path.clone())
                .unwrap_or_default(),
            need: self.need(item),
            largest: largest.map_or(0, |area| self.room(area)),
            after: after
                .and_then(|item| self.items[item].current.as_ref())
                .map(|current| current.entry.number),
        }
    }

    /// Loses its definition, keeps its place. A supplement of it stands alone from now on.
    fn turn_foreign(&mut self, item: usize) {
        if let Some(target) = self.items[item].supplement_for.take()
            && self.items[target].suppressing == Some(item)
        {
            self.items[target].suppressing = None;
        }
        if let Some(other) = self.items[item].suppressing.take() {
            self.items[other].supplement_for = None;
        }
        let it = &mut self.items[item];
        it.definition = None;
        // systemd-repart still shows what it would have filled in; where it writes, it fails an assertion.
        if let (Some(current), true) = (&it.current, self.deviations.honest_dry_run) {
            it.uuid = current.entry.guid;
            it.label.clone_from(&current.entry.label);
        }
    }
}

/// Tries single supplements first, then combinations, each set of them once.
fn split_supplements(work: &mut Work<'_>, tried: &mut BTreeSet<Vec<usize>>) -> bool {
    let targets: Vec<usize> = work
        .order
        .iter()
        .copied()
        .filter(|item| work.items[*item].suppressing.is_some())
        .collect();
    for &target in &targets {
        let split = work.items[target].suppressing.take();
        if attempt(work).is_ok() {
            return true;
        }
        work.items[target].suppressing = split;
    }
    for &target in &targets {
        let split = work.items[target].suppressing.take();
        let merged: Vec<usize> = targets
            .iter()
            .copied()
            .filter(|item| work.items[*item].suppressing.is_some())
            .collect();
        let fresh = tried.len() < COMBINATIONS_MAX && tried.insert(merged);
        if fresh && split_supplements(work, tried) {
            return true;
        }
        work.items[target].suppressing = split;
    }
    false
}

/// Drops what is new and turns foreign what exists, of the highest priority. False: nothing left to drop.
fn drop_one_priority(work: &mut Work<'_>) -> bool {
    let live: Vec<usize> = work
        .order
        .iter()
        .copied()
        .filter(|item| !work.items[*item].dropped)
        .collect();
    let Some(priority) = live
        .iter()
        .map(|item| work.priority(*item))
        .max()
        .filter(|priority| *priority > 0)
    else {
        return false;
    };
    let mut chosen: Vec<usize> = live
        .into_iter()
        .filter(|item| work.priority(*item) >= priority)
        .collect();
    for item in chosen.clone() {
        chosen.extend(verity_siblings(work, item));
    }
    for item in chosen {
        if work.items[item].dropped || work.is_foreign(item) {
            continue;
        }
        let label = work.items[item].label.clone();
        if let Some(current) = &work.items[item].current {
            let number = current.entry.number;
            work.notes.push(format!("partition {number} ({label}, priority {priority}) cannot get its minimum and is left alone"));
            work.turn_foreign(item);
        } else {
            let need = work.need(item);
            work.notes.push(format!(
                "no room for {need} bytes of {label} (priority {priority}): not made"
            ));
            work.items[item].dropped = true;
            work.items[item].area = None;
            if let Some(target) = work.items[item].supplement_for
                && work.items[target].suppressing == Some(item)
            {
                work.items[target].suppressing = None;
            }
        }
    }
    true
}

fn verity_siblings(work: &Work<'_>, item: usize) -> Vec<usize> {
    let key = |item: usize| {
        let content = &work.definition(item)?.content;
        content
            .verity_match_key
            .as_ref()
            .filter(|_| content.verity != Verity::Off)
    };
    let Some(own) = key(item) else {
        return Vec::new();
    };
    work.order
        .iter()
        .copied()
        .filter(|other| *other != item && key(*other) == Some(own))
        .collect()
}
