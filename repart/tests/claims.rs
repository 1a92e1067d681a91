//! Headers that claim sectors the tables themselves need, found by fuzzing (`fuzz/seeds/table`): believed, they would let
//! the next write destroy a copy.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use repart::{
    BlockDevice, Definitions, DirFiles, EmptyMode, Gpt, Guid, LoadContext, NoContents, Policy,
    TableState, apply, observe, plan,
};

const SECTOR: u64 = 512;
const LEN: u64 = 64 << 20;

struct Work {
    dir: tempfile::TempDir,
}

impl Work {
    /// An image with one partition.
    fn new() -> Self {
        let work = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        File::create(work.image()).unwrap().set_len(LEN).unwrap();
        work.run("Type=srv\nSizeMinBytes=1M\nSizeMaxBytes=1M\n");
        work
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn open(&self) -> BlockDevice {
        BlockDevice::open(&self.image(), true, Some(512)).unwrap()
    }

    fn run(&self, definition: &str) {
        let defs = self.dir.path().join("defs");
        fs::create_dir_all(&defs).unwrap();
        fs::write(defs.join("a.conf"), format!("[Partition]\n{definition}")).unwrap();
        let definitions = Definitions::load(&DirFiles, &[defs], &LoadContext::default()).unwrap();
        let mut policy = Policy::new(Guid::from_bytes([1; 16]), Guid::from_bytes([2; 16]));
        policy.empty = EmptyMode::Allow;
        let mut disk = self.open();
        let plan = plan(&observe(&disk).unwrap(), &definitions, &policy).unwrap();
        apply(&plan, &mut disk, &mut NoContents).unwrap();
    }

    fn gpt(&self) -> Gpt {
        match observe(&self.open()).unwrap().table {
            TableState::Gpt(gpt) => *gpt,
            other => panic!("{other:?}"),
        }
    }
}

/// Writes a number into the header at `lba` and makes its checksum right.
fn claim(image: &Path, lba: u64, at: usize, value: u64) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    let mut header = [0; 92];
    file.read_exact_at(&mut header, lba * SECTOR).unwrap();
    header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    header[16..20].fill(0);
    let sum = crc32fast::hash(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&header, lba * SECTOR).unwrap();
}

#[test]
fn a_usable_range_that_reaches_into_the_backup_array_is_cut_and_repaired() {
    let work = Work::new();
    let sound = work.gpt();
    assert!(sound.copies_agree);
    claim(&work.image(), 1, 48, LEN / SECTOR - 3);
    let claimed = work.gpt();
    assert!(!claimed.copies_agree);
    assert_eq!(claimed.table.last_usable, sound.table.last_usable);
    work.run("Type=srv\nSizeMinBytes=1M\n");
    let mended = work.gpt();
    assert!(mended.copies_agree, "both copies are good again");
    assert_eq!(mended.table.last_usable, sound.table.last_usable);
}

#[test]
fn a_backup_that_leaves_no_room_for_a_primary_array_is_no_table_to_go_by() {
    let work = Work::new();
    claim(&work.image(), LEN / SECTOR - 1, 40, 8);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(work.image())
        .unwrap();
    file.write_all_at(&[0; 512], SECTOR).unwrap();
    match observe(&work.open()).unwrap().table {
        TableState::Other(what) => assert!(what.contains("no room"), "{what}"),
        other => panic!("{other:?}"),
    }
}
