//! The tables of the peer's own suite (`tests/peer/cases-*.txt`): well-formed, and no case that is about the table
//! alone is excused without being named here. The suite itself is run by `cargo xtask peer-suite`, which needs root,
//! loop devices and the Debian archive.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

const V257: &str = include_str!("peer/cases-257.txt");
const V262: &str = include_str!("peer/cases-262.txt");

/// Cases that need nothing but a partition table (spec 8), and must pass in both modes.
const TABLE_257: &[&str] = &[
    "dropped_partitions",
    "issue_21817",
    "issue_24553",
    "random_seed",
    "unaligned_partition",
    "zero_uuid",
];
const TABLE_262: &[&str] = &[
    "distribute_leftover_space",
    "dropped_partitions",
    "fallback_partitions",
    "get_size",
    "insert_into_gap",
    "issue_21817",
    "issue_24553",
    "partition_number_gap",
    "random_seed",
    "size_auto_with_grain_size",
    "unaligned_partition",
    "zero_uuid",
];

/// Case and mode with outcome and reason.
fn rows(text: &str) -> BTreeMap<(&str, &str), (&str, String)> {
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let name = (words.next().unwrap(), words.next().unwrap());
        let outcome = words.next().unwrap();
        let reason = words.collect::<Vec<_>>().join(" ");
        assert!(
            rows.insert(name, (outcome, reason)).is_none(),
            "{name:?} is there twice"
        );
    }
    rows
}

#[test]
fn every_case_has_both_modes_and_every_gap_a_reason() {
    for (text, cases) in [(V257, 22), (V262, 46)] {
        let rows = rows(text);
        assert_eq!(rows.len(), 2 * cases);
        for ((case, mode), (outcome, reason)) in &rows {
            assert!(["container", "host"].contains(mode), "{case} {mode}");
            for word in outcome.split('|') {
                assert!(["pass", "gap", "skip"].contains(&word), "{case}: {word}");
            }
            assert_eq!(
                reason.is_empty(),
                *outcome == "pass",
                "{case} {mode}: {reason}"
            );
        }
    }
}

#[test]
fn what_is_about_the_table_alone_passes() {
    for (text, cases) in [(V257, TABLE_257), (V262, TABLE_262)] {
        let rows = rows(text);
        for case in cases {
            for mode in ["container", "host"] {
                assert_eq!(rows[&(*case, mode)].0, "pass", "{case} {mode}");
            }
        }
        assert_eq!(
            rows[&("sector", "host")].0,
            "pass",
            "sector sizes with loop devices"
        );
    }
}
