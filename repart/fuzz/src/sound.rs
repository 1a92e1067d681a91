//! What must hold of every plan, written without a look at the library's own linter.

use repart::{Entry, Plan, Snapshot, TableState};

/// The entries lie apart, in order, and where partitions may be.
pub fn is_sane(snapshot: &Snapshot) -> bool {
    let TableState::Gpt(gpt) = &snapshot.table else {
        return true;
    };
    let mut entries: Vec<Entry> = gpt.table.used().collect();
    entries.sort_by_key(|entry| entry.first_lba);
    let total = snapshot.len / u64::from(snapshot.sector_size);
    let last = gpt.table.last_usable_for(total, snapshot.sector_size);
    entries.iter().all(|entry| {
        entry.first_lba >= gpt.table.first_usable
            && entry.last_lba >= entry.first_lba
            && entry.last_lba <= last.min(gpt.table.last_usable)
    }) && entries
        .windows(2)
        .all(|pair| pair[0].last_lba < pair[1].first_lba)
}

/// Panics unless the plan keeps what is there, overlaps nothing and stays on the disk.
pub fn assert_sound(before: &Snapshot, plan: &Plan) {
    assert_eq!(
        (plan.disk_len, plan.sector_size),
        (before.len, before.sector_size)
    );
    let mut after: Vec<Entry> = plan.table().used().collect();
    after.sort_by_key(|entry| entry.first_lba);
    if let (TableState::Gpt(gpt), false) = (&before.table, plan.from_scratch) {
        assert_kept(gpt.table.used(), plan);
    }
    if !plan.changes_disk() {
        return;
    }
    let ours = |number: u32| plan.created().any(|partition| partition.number == number);
    for pair in after.windows(2) {
        let apart = pair[0].last_lba < pair[1].first_lba;
        assert!(
            apart || !ours(pair[0].number) && !ours(pair[1].number),
            "{pair:?}\n{plan}"
        );
    }
    let sector = u64::from(plan.sector_size);
    for made in plan.created() {
        assert!(
            made.size > 0 && made.size % plan.grain.min(4096) == 0,
            "{plan}"
        );
        assert!(made.offset % plan.grain == 0, "{plan}");
        let end = made.offset.checked_add(made.size).expect("an end");
        assert!(made.offset >= plan.table().first_usable * sector, "{plan}");
        assert!(end / sector <= plan.table().last_usable + 1, "{plan}");
        assert!(end <= before.len, "{plan}");
    }
}

fn assert_kept(before: impl Iterator<Item = Entry>, plan: &Plan) {
    for old in before {
        if plan.deleted.iter().any(|gone| gone.number == old.number) {
            continue;
        }
        let new = plan
            .table()
            .entry(old.number)
            .expect("an entry that was there");
        assert_eq!(
            (new.partition_type, new.first_lba),
            (old.partition_type, old.first_lba)
        );
        assert_eq!(new.attributes, old.attributes);
        assert!(new.last_lba >= old.last_lba, "{plan}");
        assert!(old.guid.is_null() || old.guid == new.guid, "{plan}");
        assert!(old.label.is_empty() || old.label == new.label, "{plan}");
    }
}
