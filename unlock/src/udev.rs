//! What udev must find in its database about a mapping that was made before udev ran.
//!
//! lvm2's `10-dm.rules` believes an "add" event (the booted system's coldplug) only if the database says that the
//! device was once activated properly: `DM_UDEV_PRIMARY_SOURCE_FLAG=1`, set by libdevmapper's cookie where udev runs.
//! Otherwise it disables all later rules: no `/dev/disk/by-*` links, `SYSTEMD_READY=0`, and the `.device` unit of a
//! mounted file system never comes up (spec trust 9.2, static 3b). All other flags these rules import mean "off" when
//! they are absent (read in the rules of Debian 12 and 13).
//!
//! The entry has no `I:` line on purpose: the device counts as not yet seen by udev, so that systemd waits for the
//! coldplug event and takes links and tags from the real rules.

use crate::Mapping;

/// Directory of udev's database.
pub const DATABASE: &str = "/run/udev/data";

/// Mode of an entry: the sticky bit is udev's own mark for "keep over the switch of roots" (`OPTIONS+="db_persist"`).
pub const ENTRY_MODE: u32 = 0o1644;

/// File name of a mapping's entry in [`DATABASE`].
pub fn udev_database_name(mapping: &Mapping) -> String {
    format!("b{}:{}", mapping.devnum.0, mapping.devnum.1)
}

/// Content of a mapping's entry.
pub fn udev_database_entry(mapping: &Mapping) -> String {
    format!(
        "E:DM_NAME={}\nE:DM_UDEV_PRIMARY_SOURCE_FLAG=1\nV:1\n",
        mapping.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_marks_the_device_as_activated_and_not_as_seen() {
        let mapping = Mapping {
            name: "root".to_owned(),
            path: "/dev/mapper/root".into(),
            devnum: (254, 3),
        };
        assert_eq!(udev_database_name(&mapping), "b254:3");
        let entry = udev_database_entry(&mapping);
        assert!(
            entry
                .lines()
                .any(|line| line == "E:DM_UDEV_PRIMARY_SOURCE_FLAG=1")
        );
        assert!(
            !entry.lines().any(|line| line.starts_with("I:")),
            "udev would skip what it believes to have seen"
        );
        assert!(entry.ends_with('\n'));
    }
}
