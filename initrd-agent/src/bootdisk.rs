//! Which disk we were booted from, decided from what was seen, without touching anything.
//!
//! Invariant: an answer is given only when exactly one disk qualifies; two disks that claim the same identity are
//! refused and listed, because every later stage trusts this choice to write to no other disk (`CONTRACT` section 2).

use std::fmt;
use std::path::PathBuf;

/// GPT type UUIDs a boot loader can be started from: ESP and XBOOTLDR.
const LOADER_TYPES: [&str; 2] = [
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172",
];

/// One partition of a disk, UUIDs in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Partition number, from 1.
    pub number: u32,
    /// Type UUID.
    pub type_uuid: String,
    /// Partition UUID.
    pub uuid: String,
    /// Start, bytes.
    pub offset: u64,
    /// Size, bytes.
    pub size: u64,
}

/// One whole disk as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Device node.
    pub node: PathBuf,
    /// GPT disk GUID, empty when there is no table.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Model or serial, for people.
    pub model: String,
    /// Its partitions, or why the table could not be read.
    pub entries: Result<Vec<Entry>, String>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} MiB", self.node.display(), self.size >> 20)?;
        if !self.model.is_empty() {
            write!(f, ", {}", self.model)?;
        }
        match &self.entries {
            Ok(entries) => write!(f, ", {} partitions)", entries.len()),
            Err(why) => write!(f, ", {why})"),
        }
    }
}

/// What identifies the boot disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// UUID of the ESP or XBOOTLDR we were started from, if the stub told.
    pub loader: Option<String>,
    /// UUIDs of the data and hash partitions of `/usr`.
    pub usr: [String; 2],
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Exactly this one (index into what was seen).
    One(usize),
    /// None so far.
    None,
    /// Several claim the identity.
    Several(Vec<usize>),
}

impl Wanted {
    /// Decides among the disks seen so far.
    #[must_use]
    pub fn choose(&self, seen: &[Seen]) -> Choice {
        let matching: Vec<usize> = (0..seen.len())
            .filter(|i| self.matches(&seen[*i]))
            .collect();
        match matching.as_slice() {
            [] => Choice::None,
            [one] => Choice::One(*one),
            _ => Choice::Several(matching),
        }
    }

    fn matches(&self, disk: &Seen) -> bool {
        let Ok(entries) = &disk.entries else {
            return false;
        };
        match &self.loader {
            Some(uuid) => entries
                .iter()
                .any(|e| e.uuid == *uuid && LOADER_TYPES.contains(&e.type_uuid.as_str())),
            None => self
                .usr
                .iter()
                .all(|uuid| entries.iter().any(|e| e.uuid == *uuid)),
        }
    }

    /// The number of the only partition with this UUID on a disk; an error names what is there instead.
    ///
    /// # Errors
    /// A sentence for the card.
    pub fn partition(disk: &Seen, uuid: &str) -> Result<u32, String> {
        let entries = disk.entries.as_deref().map_err(Clone::clone)?;
        let found: Vec<u32> = entries
            .iter()
            .filter(|e| e.uuid == uuid)
            .map(|e| e.number)
            .collect();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(format!(
                "no partition has UUID {uuid}; seen: {}",
                list(entries)
            )),
            many => Err(format!("partitions {many:?} all have UUID {uuid}")),
        }
    }
}

fn list(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no partition at all".to_owned();
    }
    entries
        .iter()
        .map(|e| format!("{}={}", e.number, e.uuid))
        .collect::<Vec<_>>()
        .join(", ")
}

/// UUIDs of the data and hash partitions: the two halves of the root hash (Discoverable Partitions Specification).
#[must_use]
pub fn usr_partitions(root_hash: &[u8; 32]) -> [String; 2] {
    let half = |range: std::ops::Range<usize>| {
        let mut text = String::with_capacity(36);
        for (i, byte) in root_hash[range].iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        text
    };
    [half(0..16), half(16..32)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(node: &str, uuids: &[(&str, &str)]) -> Seen {
        let entries = uuids
            .iter()
            .zip(1..)
            .map(|((type_uuid, uuid), number)| Entry {
                number,
                type_uuid: (*type_uuid).to_owned(),
                uuid: (*uuid).to_owned(),
                offset: 0,
                size: 0,
            })
            .collect();
        Seen {
            node: PathBuf::from(node),
            id: String::new(),
            size: 1 << 30,
            model: String::new(),
            entries: Ok(entries),
        }
    }

    fn wanted(loader: Option<&str>) -> Wanted {
        Wanted {
            loader: loader.map(str::to_owned),
            usr: ["a".to_owned(), "b".to_owned()],
        }
    }

    #[test]
    fn the_disk_of_our_esp_wins_over_another_with_the_same_usr() {
        let disks = [
            disk("/dev/a", &[(LOADER_TYPES[0], "e1"), ("u", "a"), ("v", "b")]),
            disk("/dev/b", &[(LOADER_TYPES[0], "e2"), ("u", "a"), ("v", "b")]),
        ];
        assert_eq!(wanted(Some("e2")).choose(&disks), Choice::One(1));
        assert_eq!(wanted(None).choose(&disks), Choice::Several(vec![0, 1]));
        assert_eq!(wanted(Some("e3")).choose(&disks), Choice::None);
    }

    #[test]
    fn a_partition_that_is_no_esp_does_not_count_as_one() {
        let disks = [disk("/dev/a", &[("u", "e1")])];
        assert_eq!(wanted(Some("e1")).choose(&disks), Choice::None);
    }

    #[test]
    fn half_a_pair_is_no_pair() {
        assert_eq!(
            wanted(None).choose(&[disk("/dev/a", &[("u", "a")])]),
            Choice::None
        );
        assert_eq!(
            wanted(None).choose(&[disk("/dev/a", &[("u", "a"), ("u", "b")])]),
            Choice::One(0)
        );
    }

    #[test]
    fn the_same_uuid_twice_on_the_boot_disk_is_refused() {
        let twice = disk("/dev/a", &[("u", "a"), ("u", "a")]);
        assert!(Wanted::partition(&twice, "a").is_err());
        assert!(Wanted::partition(&twice, "x").is_err_and(|why| why.contains("1=a")));
    }

    #[test]
    fn the_halves_are_in_textual_order() {
        let mut hash = [0; 32];
        for (i, byte) in (0u8..).zip(hash.iter_mut()) {
            *byte = i;
        }
        let [data, tree] = usr_partitions(&hash);
        assert_eq!(data, "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(tree, "10111213-1415-1617-1819-1a1b1c1d1e1f");
    }
}
