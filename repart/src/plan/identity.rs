//! UUIDs and labels of new and incomplete entries (spec 3). Before anything is dropped: a dropped instance
//! still uses up its place in the count.

use super::items::Work;
use super::policy::Policy;
use crate::definition::Format;
use crate::guid::Guid;

/// Label of a partition that is kept free for a later update.
const EMPTY_LABEL: &str = "_empty";
/// Label of a type without a name.
const FALLBACK_LABEL: &str = "linux";

pub(super) fn assign(work: &mut Work<'_>, policy: &Policy) {
    let order = work.order.clone();
    // Explicit ones first: a derived UUID must differ from those of later definitions too.
    for &item in &order {
        let explicit = work
            .definition(item)
            .and_then(|definition| definition.uuid.or(definition.content.copy_blocks_uuid));
        let explicit_label = work
            .definition(item)
            .and_then(|definition| definition.label.clone());
        work.items[item].uuid = explicit.unwrap_or(Guid::NULL);
        work.items[item].label = explicit_label.unwrap_or_default();
    }
    for (position, &item) in order.iter().enumerate() {
        let current = work.items[item]
            .current
            .as_ref()
            .map(|current| current.entry.clone());
        let definition = work.definition(item);
        let kept = current
            .as_ref()
            .map(|entry| entry.guid)
            .filter(|guid| !guid.is_null());
        let explicit = definition
            .and_then(|definition| definition.uuid.or(definition.content.copy_blocks_uuid));
        let uuid = match (kept, definition, explicit) {
            (Some(guid), _, _) => guid,
            (None, None, _) => Guid::NULL,
            (None, Some(_), Some(explicit)) => explicit,
            (None, Some(_), None) => derived_uuid(work, policy, &order, position),
        };
        work.items[item].uuid = uuid;
        work.items[item].fs_uuid = uuid.derive(b"file-system-uuid");
        work.items[item].luks_uuid = uuid.derive(b"luks-uuid");
        let kept = current
            .map(|entry| entry.label)
            .filter(|label| !label.is_empty());
        work.items[item].label = match (kept, definition) {
            (Some(label), _) => label,
            (None, None) => String::new(),
            (None, Some(definition)) => match &definition.label {
                Some(label) => label.clone(),
                None if definition.content.format == Some(Format::Empty) => EMPTY_LABEL.to_owned(),
                None => free_label(work, &order, position),
            },
        };
    }
}

fn derived_uuid(work: &mut Work<'_>, policy: &Policy, order: &[usize], position: usize) -> Guid {
    let item = order[position];
    let kind = work.items[item].kind;
    let earlier = order[..position]
        .iter()
        .filter(|other| work.items[**other].kind == kind)
        .count();
    let mut message = kind.uuid().bytes().to_vec();
    if earlier > 0 {
        message.extend_from_slice(&u64::try_from(earlier).unwrap_or(u64::MAX).to_le_bytes());
    }
    let mut uuid = policy.seed.derive(&message);
    let mut tries: u64 = 0;
    while is_taken(work, order, item, uuid) && tries < 1000 {
        if tries == 0 {
            work.notes.push(format!(
                "the derived UUID {uuid} is taken by another partition; a different one is used"
            ));
        }
        tries += 1;
        let mut message = message.clone();
        message.extend_from_slice(b"collision");
        message.extend_from_slice(&tries.to_le_bytes());
        uuid = policy.entropy.derive(&message);
    }
    uuid
}

fn is_taken(work: &Work<'_>, order: &[usize], item: usize, uuid: Guid) -> bool {
    order.iter().filter(|other| **other != item).any(|other| {
        let other = &work.items[*other];
        other.uuid == uuid
            || other
                .current
                .as_ref()
                .is_some_and(|current| current.entry.guid == uuid)
    })
}

/// The type's name, with `-2`, `-3`, … until no earlier item has it.
fn free_label(work: &Work<'_>, order: &[usize], position: usize) -> String {
    let base = work.items[order[position]]
        .kind
        .name()
        .unwrap_or_else(|| FALLBACK_LABEL.to_owned());
    let taken = |label: &str| {
        order[..position].iter().any(|other| {
            let other = &work.items[*other];
            other.label == label
                || other
                    .current
                    .as_ref()
                    .is_some_and(|current| current.entry.label == label)
        })
    };
    let mut label = base.clone();
    let mut suffix: u64 = 1;
    while taken(&label) {
        suffix += 1;
        label = format!("{base}-{suffix}");
    }
    label
}
