//! How small and how large an item may be, and its weights; with what a supplement merged into it says (spec 2.3, 5.9).

use super::items::Work;
use crate::definition::{Definition, Encrypt, Format, Verity};
use crate::size::{round_down, round_up};

/// Size of a signature partition.
const VERITY_SIG_SIZE: u64 = 16 << 10;
/// Smallest partition.
const HARD_MIN: u64 = 4096;
/// Smallest partition of a definition that says nothing.
const DEFAULT_MIN: u64 = 10 << 20;
/// Room for a LUKS2 header.
const LUKS2_HEADER: u64 = 32 << 20;

impl<'a> Work<'a> {
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
