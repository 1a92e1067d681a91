//! What holds for every disk and every set of definitions: plans are deterministic and additive, pass the linter,
//! and planning what a plan made gives the empty plan; nothing panics, whatever the bytes.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use common::journal::MemoryDisk;
use proptest::prelude::*;
use repart::{
    Definitions, Deviations, Disk, EmptyMode, Entry, FileContent, Files, Guid, LoadContext,
    NoContents, PartitionType, PlanError, Policy, Snapshot, Table, TableState, apply, check,
    observe, plan,
};

/// Definition files in memory.
struct Texts(BTreeMap<String, String>);

impl Files for Texts {
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        Ok(if dir == Path::new("/defs") {
            self.0.keys().map(OsString::from).collect()
        } else {
            Vec::new()
        })
    }

    fn read(&self, path: &Path) -> io::Result<FileContent> {
        let name = path.file_name().unwrap().to_str().unwrap();
        Ok(FileContent::Text(self.0[name].clone().into_bytes()))
    }
}

fn load(texts: &[String]) -> Option<Definitions> {
    let texts = texts
        .iter()
        .enumerate()
        .map(|(at, text)| (format!("{at:02}.conf"), text.clone()))
        .collect();
    Definitions::load(
        &Texts(texts),
        &[PathBuf::from("/defs")],
        &LoadContext::default(),
    )
    .ok()
}

const NAMES: &[&str] = &[
    "esp",
    "xbootldr",
    "swap",
    "home",
    "srv",
    "var",
    "linux-generic",
    "root",
    "usr",
    "usr-verity",
    "usr-verity-sig",
];
const MIB: u64 = 1 << 20;

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(NAMES)
}

fn bytes() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(4096),
        (1u64..100).prop_map(|n| n * MIB),
        (1u64..20_000).prop_map(|n| n * 4096),
        1u64..300 * MIB,
        Just(u64::MAX / 2),
    ]
}

/// One definition file; `droppable` ones may lose their place.
fn definition() -> impl Strategy<Value = String> {
    let sizes = (
        prop::option::of(bytes()),
        prop::option::of(bytes()),
        prop::option::of(bytes()),
        prop::option::of(bytes()),
    );
    let weights = (prop::option::of(0u32..5000), prop::option::of(0u32..3000));
    let rest = (
        prop::option::of(-1i32..4),
        any::<bool>(),
        prop::option::of("[a-z_]{0,12}"),
        prop::option::of(0usize..6),
    );
    (name(), sizes, weights, rest).prop_map(|(name, sizes, weights, rest)| {
        let mut text = format!("[Partition]\nType={name}\n");
        let (mut low, mut high) = (sizes.0, sizes.1);
        if let (Some(min), Some(max)) = (low, high)
            && max / 4096 < min.div_ceil(4096)
        {
            (low, high) = (Some(max), min.checked_add(4096));
        }
        let mut key = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                text += &format!("{name}={value}\n");
            }
        };
        key("SizeMinBytes", low.map(|n| n.to_string()));
        key("SizeMaxBytes", high.map(|n| n.to_string()));
        key(
            "PaddingMinBytes",
            sizes.2.filter(|n| *n < 50 * MIB).map(|n| n.to_string()),
        );
        key(
            "PaddingMaxBytes",
            sizes.3.filter(|n| *n > 50 * MIB).map(|n| n.to_string()),
        );
        key("Weight", weights.0.map(|n| n.to_string()));
        key("PaddingWeight", weights.1.map(|n| n.to_string()));
        key("Priority", rest.0.map(|n| n.to_string()));
        key("FactoryReset", rest.1.then(|| "yes".to_owned()));
        key("Label", rest.2);
        key("SupplementFor", rest.3.map(|n| format!("{n:02}")));
        text
    })
}

/// A disk with up to six partitions, some off the grid, in any slots.
fn disk() -> impl Strategy<Value = MemoryDisk> {
    let part = (
        0u64..60,
        prop_oneof![Just(0u64), 1u64..9],
        1u64..60_000,
        name(),
        any::<bool>(),
        any::<bool>(),
    );
    let parts = prop::collection::vec(part, 0..6);
    let sector = prop_oneof![4 => Just(512u32), 1 => Just(4096u32)];
    (parts, sector, 8u64..900, 0u64..3, prop::bool::weighted(0.3)).prop_map(
        |(parts, sector, mib, odd, grown)| {
            let len = mib * MIB + odd * u64::from(sector) * 3;
            let mut disk = MemoryDisk::new(len, sector);
            let Some(mut table) = Table::new(Guid::from_bytes([9; 16]), len, sector) else {
                return disk;
            };
            let mut at = table.first_usable;
            for (slot, (gap, off, size, name, labelled, zero)) in parts.into_iter().enumerate() {
                let first = at + gap * MIB / 4 / u64::from(sector) + off;
                let last = first + size - 1;
                if last > table.last_usable {
                    break;
                }
                table.set(&Entry {
                    number: u32::try_from((slot * 5) % 7 + 1).unwrap(),
                    partition_type: PartitionType::parse(name, repart::Architecture::native())
                        .unwrap(),
                    guid: if zero {
                        Guid::NULL
                    } else {
                        Guid::from_bytes([u8::try_from(slot).unwrap() + 1; 16])
                    },
                    first_lba: first,
                    last_lba: last,
                    attributes: 0,
                    label: if labelled {
                        format!("old{slot}")
                    } else {
                        String::new()
                    },
                });
                at = last + 1;
            }
            write(&mut disk, table);
            if grown {
                disk.resize(len + 100 * MIB);
            }
            disk
        },
    )
}

/// Puts a table on the disk with the library's own writer: an empty plan that only repairs.
fn write(disk: &mut MemoryDisk, table: Table) {
    let spec = serde_json::json!({
        "label_id": table.disk_guid.to_string(),
        "first_lba": table.first_usable,
        "last_lba": table.last_usable,
        "parts": table.used().map(|entry| serde_json::json!({
            "slot": entry.number, "start": entry.first_lba, "size": entry.last_lba - entry.first_lba + 1,
            "type": entry.partition_type.uuid().to_string(), "uuid": entry.guid.to_string(), "name": entry.label,
        })).collect::<Vec<_>>(),
    });
    let sector = u64::from(disk.sector_size());
    common::image::write_gpt(disk, &spec, sector);
}

fn policy(empty: EmptyMode, factory_reset: bool, deviations: Deviations) -> Policy {
    let policy = Policy::new(Guid::from_bytes([1; 16]), Guid::from_bytes([2; 16]));
    Policy {
        empty,
        factory_reset,
        deviations,
        ..policy
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_sound(
        disk in disk(), texts in prop::collection::vec(definition(), 0..6), reset in any::<bool>(), own in any::<bool>(),
    ) {
        let Some(definitions) = load(&texts) else { return Ok(()) };
        let deviations = if own { Deviations::ALL } else { Deviations::NONE };
        let policy = policy(EmptyMode::Allow, reset, deviations);
        let snapshot = observe(&disk).unwrap();
        let first = plan(&snapshot, &definitions, &policy);
        prop_assert_eq!(format!("{first:?}"), format!("{:?}", plan(&snapshot, &definitions, &policy)));
        let made = match first {
            Ok(made) => made,
            Err(PlanError::Unsound(error)) => return Err(TestCaseError::fail(format!("unsound: {error}"))),
            Err(error) => { prop_assert!(!error.to_string().is_empty()); return Ok(()) }
        };
        check(&snapshot, &made).unwrap();
        additive(&snapshot, &made)?;
        let mut after = disk.clone();
        apply(&made, &mut after, &mut NoContents).unwrap();
        let snapshot = observe(&after).unwrap();
        let TableState::Gpt(gpt) = &snapshot.table else { return Err(TestCaseError::fail("no table afterwards")) };
        if made.changes_disk() {
            prop_assert!(gpt.copies_agree);
        }
        // What was dropped or left alone leaves its definition free to match something else next time. With
        // PaddingWeight= each hole is shared anew between the partition before it and itself, by systemd's rules.
        let settled = made.dropped.is_empty()
            && made.notes.is_empty()
            && !has_ambiguous_supplement(&definitions)
            && definitions.list.iter().all(|definition| definition.padding_weight == 0);
        if own && settled {
            let again = plan(&snapshot, &definitions, &Policy { factory_reset: false, ..policy });
            let again = again.map_err(|error| TestCaseError::fail(format!("second run: {error}\nfirst:\n{made}")))?;
            prop_assert!(!again.changes_disk(), "first:\n{made}\nagain:\n{again}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        disk in disk(), texts in prop::collection::vec(definition(), 0..3),
        flips in prop::collection::vec((0usize..34 * 512, any::<u8>()), 0..8), fix_sums in any::<bool>(), own in any::<bool>(),
    ) {
        let Some(definitions) = load(&texts) else { return Ok(()) };
        let mut disk = disk;
        for (at, value) in flips {
            disk.store(at as u64, &[value]);
        }
        if fix_sums {
            repair_sums(&mut disk);
        }
        let snapshot = observe(&disk).unwrap();
        for empty in [EmptyMode::Refuse, EmptyMode::Allow, EmptyMode::Force] {
            let deviations = if own { Deviations::ALL } else { Deviations::NONE };
            if let Ok(made) = plan(&snapshot, &definitions, &policy(empty, true, deviations)) {
                check(&snapshot, &made).unwrap();
                apply(&made, &mut disk.clone(), &mut NoContents).unwrap();
            }
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(\\[Partition\\]\n)?([A-Za-z]{1,16}=[ -~]{0,20}(\\\\)?\n){0,6}", raw in any::<Vec<u8>>()) {
        drop(load(&[text, String::from_utf8_lossy(&raw).into_owned()]));
    }
}

/// A merged supplement of a type that another definition has too: matching by slot may take it for that one.
fn has_ambiguous_supplement(definitions: &Definitions) -> bool {
    let list = &definitions.list;
    list.iter()
        .enumerate()
        .filter(|(_, own)| own.supplement_for.is_some())
        .any(|(at, own)| {
            list.iter().enumerate().any(|(other, definition)| {
                other != at && definition.partition_type == own.partition_type
            })
        })
}

/// Nothing that was there is lost, moved, shrunk or renamed, except what a reset takes.
fn additive(before: &Snapshot, made: &repart::Plan) -> Result<(), TestCaseError> {
    let TableState::Gpt(gpt) = &before.table else {
        return Ok(());
    };
    for old in gpt.table.used() {
        if made.deleted.iter().any(|gone| gone.number == old.number) {
            continue;
        }
        let new = made.table().entry(old.number);
        prop_assert!(new.is_some(), "partition {} is lost", old.number);
        let new = new.unwrap();
        prop_assert_eq!(
            (new.partition_type, new.first_lba),
            (old.partition_type, old.first_lba)
        );
        prop_assert!(new.last_lba >= old.last_lba && (old.guid.is_null() || old.guid == new.guid));
        prop_assert!(old.label.is_empty() || old.label == new.label);
    }
    Ok(())
}

/// Makes the checksums of the primary copy right again, so that the flipped bytes reach the parser.
fn repair_sums(disk: &mut MemoryDisk) {
    let sector = u64::from(disk.sector_size());
    let mut header = disk.bytes(sector, 92);
    let word = |raw: &[u8], at: usize| u32::from_le_bytes(raw[at..at + 4].try_into().unwrap());
    let len = u64::from(word(&header, 80)) * u64::from(word(&header, 84));
    let start = u64::from_le_bytes(header[72..80].try_into().unwrap()).saturating_mul(sector);
    if len < 1 << 20 && start.saturating_add(len) <= disk.len() {
        let entries = disk.bytes(start, usize::try_from(len).unwrap());
        header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
    }
    let size = usize::try_from(word(&header, 12)).unwrap().clamp(92, 512);
    let mut summed = disk.bytes(sector, size);
    summed[..92].copy_from_slice(&header);
    summed[16..20].fill(0);
    header[16..20].copy_from_slice(&crc32fast::hash(&summed).to_le_bytes());
    disk.store(sector, &header);
}
