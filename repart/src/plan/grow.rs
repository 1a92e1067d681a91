//! Sharing out the free space by weight (spec 2.5). Per area, phase by phase.

use super::items::Work;
use crate::size::{round_down, round_up};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Foreign partitions take what they have.
    Foreign,
    /// Whoever needs more than its share takes that.
    Over,
    /// Whoever may not have its share takes less.
    Under,
    /// The others take their share.
    Rest,
}

/// What is left to share in one area.
struct Pool {
    span: u64,
    weights: u64,
    grain: u64,
}

impl Pool {
    fn share(&self, weight: u64) -> u64 {
        let (mut part, mut whole) = (weight, self.weights);
        while part > 0 && whole > 0 {
            if let Some(product) = self.span.checked_mul(part) {
                return product / whole;
            }
            part /= 2;
            whole = whole.div_ceil(2);
        }
        0
    }

    fn charge(&mut self, bytes: u64, weight: u64) {
        self.span = self.span.saturating_sub(round_up(bytes, self.grain));
        self.weights = self.weights.saturating_sub(weight);
    }
}

pub(super) fn grow(work: &mut Work<'_>) {
    for area in work.area_order.clone() {
        grow_area(work, area);
    }
    for item in &mut work.items {
        if let Some(current) = &item.current {
            item.new_size.get_or_insert(current.size);
            item.new_padding.get_or_insert(current.padding);
        }
    }
}

fn grow_area(work: &mut Work<'_>, area: usize) {
    let after = work.areas[area].after;
    let members: Vec<usize> = work
        .order
        .iter()
        .copied()
        .filter(|item| {
            work.is_live(*item) && (Some(*item) == after || work.items[*item].area == Some(area))
        })
        .collect();
    let mut pool = Pool {
        span: work.areas[area].size,
        weights: members
            .iter()
            .map(|item| work.weight(*item) + work.padding_weight(*item))
            .sum(),
        grain: work.grain,
    };
    if let Some(current) = after.and_then(|item| work.items[item].current.as_ref()) {
        let end = round_up(current.offset.saturating_add(current.size), work.grain);
        pool.span = pool.span.saturating_add(end.saturating_sub(current.offset));
    }
    for phase in [Phase::Foreign, Phase::Over, Phase::Under] {
        while pass(work, &members, &mut pool, phase) {}
    }
    pass(work, &members, &mut pool, Phase::Rest);
    give_away_rest(work, &members, pool);
}

/// One pass over all members; true if something was assigned.
fn pass(work: &mut Work<'_>, members: &[usize], pool: &mut Pool, phase: Phase) -> bool {
    let mut assigned = false;
    for &item in members {
        if work.items[item].new_size.is_none() {
            let weight = work.weight(item);
            let limits = (work.min_size(item), work.max_size(item));
            let foreign = work.is_foreign(item).then(|| {
                work.items[item]
                    .current
                    .as_ref()
                    .map_or(0, |current| current.size)
            });
            let before = pool.span;
            if let Some(size) = assign(pool, phase, weight, limits, foreign) {
                work.items[item].new_size = Some(size);
                assigned = true;
                if let (Some(current), true) =
                    (&work.items[item].current, work.deviations.exact_unaligned)
                {
                    let end = round_up(current.offset.saturating_add(size), pool.grain);
                    pool.span = before.saturating_sub(end.saturating_sub(current.offset));
                }
            }
        }
        if work.items[item].new_padding.is_none() {
            let weight = work.padding_weight(item);
            let limits = (work.min_padding(item), work.max_padding(item));
            if let Some(size) = assign(pool, phase, weight, limits, None) {
                work.items[item].new_padding = Some(size);
                assigned = true;
            }
        }
    }
    assigned
}

fn assign(
    pool: &mut Pool,
    phase: Phase,
    weight: u64,
    limits: (u64, u64),
    foreign: Option<u64>,
) -> Option<u64> {
    let (min, max) = limits;
    let share = pool.share(weight);
    let bytes = match phase {
        Phase::Foreign => foreign?,
        Phase::Over if min > share => min,
        Phase::Under if max < share => max,
        Phase::Rest => round_down(share, pool.grain).min(max).max(min),
        Phase::Over | Phase::Under => return None,
    };
    pool.charge(bytes, weight);
    Some(bytes)
}

/// What no share took: to whoever may still grow, in order, else to the padding of the last one.
fn give_away_rest(work: &mut Work<'_>, members: &[usize], mut pool: Pool) {
    for &item in members {
        if pool.span == 0 {
            return;
        }
        let size = work.items[item].new_size.unwrap_or(0);
        let wider = round_down(size.saturating_add(pool.span), pool.grain)
            .max(size)
            .min(work.max_size(item))
            .max(size);
        pool.charge(wider - size, 0);
        work.items[item].new_size = Some(wider);
    }
    if let Some(last) = members.last() {
        let padding = work.items[*last].new_padding.unwrap_or(0);
        work.items[*last].new_padding =
            Some(padding.saturating_add(round_down(pool.span, pool.grain)));
    }
}
