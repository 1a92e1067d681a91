//! The scenarios, one file each, named by what goes wrong.
//!
//! To add one: a file with a `SCENARIO` and a `run` of ten to twenty-five lines, and its line in [`ALL`].

mod broken_definition;
mod debian;
mod disk_too_small;
mod ext4_root;
mod first_boot;
mod flipped_byte_early;
mod flipped_byte_late;
mod generic_ahci;
mod generic_nvme;
mod installed;
mod missing_mkfs;
mod no_boot_disk;
mod no_table;
mod no_tpm;
mod power_cut;
mod second_boot;
mod torn_table;
mod tpm_refuses;
mod tpm_replaced;
mod two_disks_same_usr;
mod unsigned;
mod used_disk;
mod wrong_usrhash;

use crate::runner::Scenario;

/// All of them, the longest first, so that none is left to run alone.
pub const ALL: &[Scenario] = &[
    debian::SCENARIO,
    power_cut::SCENARIO,
    second_boot::SCENARIO,
    tpm_replaced::SCENARIO,
    ext4_root::SCENARIO,
    used_disk::SCENARIO,
    unsigned::SCENARIO,
    generic_nvme::SCENARIO,
    generic_ahci::SCENARIO,
    first_boot::SCENARIO,
    installed::SCENARIO,
    torn_table::SCENARIO,
    missing_mkfs::SCENARIO,
    wrong_usrhash::SCENARIO,
    flipped_byte_early::SCENARIO,
    flipped_byte_late::SCENARIO,
    no_tpm::SCENARIO,
    tpm_refuses::SCENARIO,
    disk_too_small::SCENARIO,
    no_boot_disk::SCENARIO,
    no_table::SCENARIO,
    two_disks_same_usr::SCENARIO,
    broken_definition::SCENARIO,
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use std::path::Path;

    #[test]
    fn every_file_is_a_scenario_of_its_name() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/scenarios");
        let stem = |path: std::path::PathBuf| {
            path.file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .replace('_', "-")
        };
        let mut files: Vec<_> = dir
            .read_dir()
            .unwrap()
            .map(|entry| stem(entry.unwrap().path()))
            .collect();
        files.retain(|name| name != "mod");
        let mut names: Vec<_> = super::ALL.iter().map(|scenario| scenario.name).collect();
        files.sort_unstable();
        names.sort_unstable();
        assert_eq!(files, names);
    }
}
