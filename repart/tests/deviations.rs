//! Each row of the deviations table in README.md: what systemd-repart 262 does, and what we do instead.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::PathBuf;

use common::image::{self, Table};
use common::journal::MemoryDisk;
use repart::{
    Activity, Definitions, Deviations, DirFiles, Disk, EmptyMode, Guid, LoadContext, Mbr,
    NoContents, Outcome, Plan, PlanError, Policy, TableState, apply, observe, plan,
};
use serde_json::json;

const MIB: u64 = 1 << 20;

fn definitions(texts: &[&str]) -> Definitions {
    let dir = tempfile::tempdir().unwrap();
    for (at, text) in texts.iter().enumerate() {
        std::fs::write(
            dir.path().join(format!("{at:02}.conf")),
            format!("[Partition]\n{text}\n"),
        )
        .unwrap();
    }
    Definitions::load(
        &DirFiles,
        &[PathBuf::from(dir.path())],
        &LoadContext::default(),
    )
    .unwrap()
}

/// A disk of `mib` MiB; parts are (slot, start in sectors, sectors, type, label, UUID).
fn disk(mib: u64, parts: &[(u64, u64, u64, &str, &str, &str)]) -> MemoryDisk {
    let parts: Vec<_> = parts
        .iter()
        .map(|(slot, start, size, kind, name, uuid)| {
            json!({"slot": slot, "start": start, "size": size, "type": kind, "name": name, "uuid": uuid})
        })
        .collect();
    let mut disk = MemoryDisk::new(mib * MIB, 512);
    let spec = json!({"label_id": "11223344-5566-4778-899a-aabbccddeeff", "parts": parts});
    image::write_gpt(&mut disk, &spec, 512);
    disk
}

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const NULL: &str = "00000000-0000-0000-0000-000000000000";

fn policy(deviations: Deviations) -> Policy {
    let seed = Guid::parse(common::case::SEED).unwrap();
    Policy {
        deviations,
        ..Policy::new(seed, Guid::from_bytes([2; 16]))
    }
}

fn planned(
    disk: &MemoryDisk,
    definitions: &Definitions,
    policy: &Policy,
) -> Result<Plan, PlanError> {
    plan(&observe(disk).unwrap(), definitions, policy)
}

fn run(disk: &mut MemoryDisk, definitions: &Definitions, policy: &Policy) -> Outcome {
    let plan = planned(disk, definitions, policy).unwrap();
    apply(&plan, disk, &mut NoContents).unwrap()
}

fn slots(disk: &MemoryDisk) -> Vec<usize> {
    Table::read(disk, 512)
        .unwrap()
        .parts
        .iter()
        .map(|part| part.slot)
        .collect()
}

#[test]
fn a_reset_keeps_the_neighbour() {
    let definitions = definitions(&["Type=home\nFactoryReset=yes\nSizeMaxBytes=30M"]);
    let parts = [
        (1, 2048, 61440, "home", "mine", A),
        (2, 63488, 61440, "home", "other", B),
    ];
    for (deviations, left) in [(Deviations::NONE, vec![1]), (Deviations::ALL, vec![1, 2])] {
        let mut disk = disk(256, &parts);
        let policy = Policy {
            factory_reset: true,
            ..policy(deviations)
        };
        run(&mut disk, &definitions, &policy);
        run(&mut disk, &definitions, &policy);
        assert_eq!(slots(&disk), left);
    }
}

#[test]
fn new_slots_follow_the_definitions() {
    // The first definition does not fit into the first gap, which the second one takes.
    let definitions = definitions(&[
        "Type=srv\nSizeMinBytes=50M",
        "Type=srv\nSizeMinBytes=10M\nSizeMaxBytes=10M",
    ]);
    let parts = [
        (1, 2048, 20480, "esp", "a", A),
        (2, 63488, 20480, "xbootldr", "b", B),
    ];
    for (deviations, numbers) in [(Deviations::NONE, [3, 4]), (Deviations::ALL, [4, 3])] {
        let mut disk = disk(256, &parts);
        let policy = policy(deviations);
        let plan = planned(&disk, &definitions, &policy).unwrap();
        let made: Vec<u32> = plan.created().map(|partition| partition.number).collect();
        assert_eq!(made, numbers, "{plan}");
        run(&mut disk, &definitions, &policy);
        let again = planned(&disk, &definitions, &policy);
        assert_eq!(
            again.is_ok_and(|plan| !plan.changes_disk()),
            deviations == Deviations::ALL
        );
    }
}

#[test]
fn a_grown_disk_is_repaired_without_other_changes() {
    let definitions = definitions(&["Type=root\nSizeMaxBytes=40M"]);
    for (deviations, outcome) in [
        (Deviations::NONE, Outcome::Unchanged),
        (Deviations::ALL, Outcome::Changed),
    ] {
        let mut disk = disk(64, &[(1, 2048, 81920, "root", "r", A)]);
        disk.resize(128 * MIB);
        assert_eq!(run(&mut disk, &definitions, &policy(deviations)), outcome);
    }
}

#[test]
fn torn_copies_and_missing_mbr_are_repaired() {
    let whole = disk(64, &[(1, 2048, 81920, "root", "r", A)]);
    let expected = Table::read(&whole, 512).unwrap().dump();
    let no_definitions = Definitions::default();
    for (what, offset) in [
        ("primary header", 512),
        ("primary entries", 1024),
        ("backup", 64 * MIB - 512),
        ("MBR", 510),
    ] {
        let mut disk = whole.clone();
        disk.store(offset, &[0xff; 2]);
        assert_eq!(
            run(&mut disk, &no_definitions, &policy(Deviations::ALL)),
            Outcome::Changed,
            "{what}"
        );
        let table = Table::read(&disk, 512).unwrap();
        assert_eq!(
            (table.dump(), table.problems),
            (expected.clone(), Vec::new()),
            "{what}"
        );
        let TableState::Gpt(gpt) = observe(&disk).unwrap().table else {
            panic!("{what}")
        };
        assert!(gpt.copies_agree && gpt.mbr == Mbr::Protective, "{what}");
        assert_eq!(
            run(&mut disk, &no_definitions, &policy(Deviations::ALL)),
            Outcome::Unchanged,
            "{what}"
        );
    }
    let mut disk = whole;
    disk.store(446, &[0; 66]);
    let refused = planned(&disk, &no_definitions, &policy(Deviations::NONE)).unwrap_err();
    assert_eq!(refused, PlanError::NoTable { mode: "refuse" });
    assert_eq!(
        run(&mut disk, &no_definitions, &policy(Deviations::ALL)),
        Outcome::Changed
    );
}

#[test]
fn a_hybrid_mbr_stays_as_it_is() {
    let mut disk = disk(64, &[(1, 2048, 4096, "esp", "e", A)]);
    let real = [0x80, 0, 33, 0, 0x0c, 0, 1, 1, 0, 8, 0, 0, 0, 16, 0, 0];
    disk.store(462, &real);
    run(
        &mut disk,
        &definitions(&["Type=root"]),
        &policy(Deviations::ALL),
    );
    assert_eq!(disk.bytes(462, 16), real);
    assert_eq!(slots(&disk), [1, 2]);
}

#[test]
fn a_zero_disk_guid_is_derived() {
    let mut disk = MemoryDisk::new(64 * MIB, 512);
    image::write_gpt(&mut disk, &json!({"parts": []}), 512);
    let definitions = definitions(&["Type=root"]);
    assert_eq!(
        planned(&disk, &definitions, &policy(Deviations::NONE)).unwrap_err(),
        PlanError::ZeroDiskGuid
    );
    let plan = planned(&disk, &definitions, &policy(Deviations::ALL)).unwrap();
    assert_eq!(
        plan.table().disk_guid.to_string(),
        "1d2ce291-7cce-4f7d-bc83-fdb49ad74ebd"
    );
}

#[test]
fn a_dry_run_is_the_run() {
    let definitions = definitions(&["Type=root"]);
    let mut disk = disk(64, &[(1, 2048, 81920, "root", "r", A)]);
    disk.resize(128 * MIB);
    for (deviations, size) in [(Deviations::NONE, 63 * MIB), (Deviations::ALL, 127 * MIB)] {
        let policy = Policy {
            dry_run: true,
            ..policy(deviations)
        };
        let plan = planned(&disk, &definitions, &policy).unwrap();
        let grown = plan.partitions[0].size;
        assert!(grown > size - MIB && grown <= size, "{plan}");
    }
}

#[test]
fn attributes_and_labels_are_written_as_given() {
    let definitions = definitions(&["Type=root\nFlags=4\nLabel=smile-😀"]);
    for (deviations, label, attributes) in [
        (Deviations::NONE, "", 0),
        (Deviations::ALL, "smile-😀", 1 << 59 | 4),
    ] {
        let disk = MemoryDisk::new(64 * MIB, 512);
        let policy = Policy {
            empty: EmptyMode::Allow,
            ..policy(deviations)
        };
        let entry = planned(&disk, &definitions, &policy)
            .unwrap()
            .table()
            .entry(1)
            .unwrap();
        assert_eq!(
            (entry.label.as_str(), entry.attributes),
            (label, attributes)
        );
    }
}

#[test]
fn partitions_off_the_grid_do_not_fail_the_second_run() {
    let definitions = definitions(&["Type=home"]);
    for (deviations, settled) in [(Deviations::NONE, false), (Deviations::ALL, true)] {
        let mut disk = disk(300, &[(1, 2051, 69043, "home", "h", A)]);
        let policy = policy(deviations);
        run(&mut disk, &definitions, &policy);
        assert_eq!(
            planned(&disk, &definitions, &policy).is_ok_and(|plan| !plan.changes_disk()),
            settled
        );
    }
}

/// Golden 098 to 102: systemd-repart fails an assertion.
#[test]
fn where_the_peer_aborts_we_do_not() {
    let unlabelled = disk(
        128,
        &[
            (1, 135_168, 2799, "esp", "", NULL),
            (2, 137_967, 81920, "usr", "p8", B),
        ],
    );
    let two = definitions(&["Type=esp\nPriority=1", "Type=esp"]);
    for deviations in [Deviations::NONE, Deviations::ALL] {
        let plan = planned(&unlabelled, &two, &policy(deviations)).unwrap();
        let entry = plan.table().entry(1).unwrap();
        assert_eq!(
            (entry.label.as_str(), entry.guid),
            ("", Guid::NULL),
            "left alone"
        );
        assert!(
            plan.notes[0].contains("cannot get its minimum"),
            "{:?}",
            plan.notes
        );

        let tight = disk(
            32,
            &[
                (5, 6147, 979, "home", "p5", A),
                (6, 7145, 57344, "xbootldr", "p6", B),
            ],
        );
        let plan = planned(
            &tight,
            &definitions(&["Type=esp\nSizeMinBytes=8K"]),
            &policy(deviations),
        )
        .unwrap();
        let new = plan.created().next().unwrap();
        assert_eq!(
            (new.offset, new.size),
            (7128 * 512, 8192),
            "exactly the gap"
        );

        let sig = disk(64, &[(1, 2048, 36864, "usr-verity-sig", "sig", A)]);
        let plan = planned(
            &sig,
            &definitions(&["Type=usr-verity-sig", "Type=home"]),
            &policy(deviations),
        )
        .unwrap();
        assert_eq!(
            plan.partitions[0].activity,
            Activity::Kept,
            "not shrunk to 16 KiB"
        );
        assert_eq!(plan.created().count(), 1);
    }
}

#[test]
fn a_typo_in_encrypt_is_fatal() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("a.conf"),
        "[Partition]\nType=root\nEncrypt=tmp2\n",
    )
    .unwrap();
    let error =
        Definitions::load(&DirFiles, &[dir.path().into()], &LoadContext::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("Encrypt=tmp2: not one of off, key-file, tpm2"),
        "{error}"
    );
}

/// Refusals carry the numbers a person can act on.
#[test]
fn refusals_have_numbers() {
    let small = disk(64, &[(1, 2048, 81920, "root", "r", A)]);
    let policy = policy(Deviations::ALL);
    let text = |texts: &[&str]| {
        planned(&small, &definitions(texts), &policy)
            .unwrap_err()
            .to_string()
    };
    let new = text(&["Type=root", "Type=home\nSizeMinBytes=100M"]);
    assert!(new.contains("needs 104857600 bytes (100.0 MiB)"), "{new}");
    assert!(
        new.contains("behind partition 1") && new.contains("24096768 bytes"),
        "{new}"
    );
    let blocked = disk(
        64,
        &[
            (1, 2048, 20480, "root", "r", A),
            (2, 22528, 20480, "home", "h", B),
        ],
    );
    let error = planned(
        &blocked,
        &definitions(&["Type=root\nSizeMinBytes=50M"]),
        &policy,
    )
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("partition 1 (r) has 10485760 bytes")
            && error.contains("then comes partition 2"),
        "{error}"
    );
    let tiny = planned(
        &MemoryDisk::new(20 << 10, 512),
        &definitions(&[]),
        &Policy {
            empty: EmptyMode::Allow,
            ..policy.clone()
        },
    );
    assert!(tiny.unwrap_err().to_string().contains("has 20480 bytes"));
    assert_eq!(small.len(), 64 * MIB);
}
