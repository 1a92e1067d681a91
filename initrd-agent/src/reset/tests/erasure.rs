//! Volumes made by cryptsetup, erased, and looked for on the raw disk afterwards; and the erasure cut everywhere.

use super::super::Change;
use super::super::erase::{Depth, EraseError, Target, Uncached, erase};
use super::super::luks::{self, Kind};
use super::disk::{Event, MemoryDisk};
use repart::{BlockDevice, Disk};
use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const OFFSET: u64 = 3 << 20;
const VOLUME: u64 = 40 << 20;
const AFTER: u64 = 2 << 20;
const PASSWORD: &[u8] = b"correct horse";

fn cryptsetup(arguments: &[&str], input: &[u8]) -> bool {
    let mut child = Command::new("/usr/sbin/cryptsetup")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("tests need cryptsetup-bin");
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait().unwrap().success()
}

/// A volume with two keyslots, something like ciphertext behind them, and a disk around it that belongs to others.
fn volume(path: &Path, extra: &[&str]) -> Vec<u8> {
    fs::write(path, vec![0; usize::try_from(VOLUME).unwrap()]).unwrap();
    let name = path.to_str().unwrap();
    let mut format = vec![
        "luksFormat",
        "--type",
        "luks2",
        "--batch-mode",
        "--pbkdf",
        "pbkdf2",
    ];
    format.extend(["--pbkdf-force-iterations", "1000"]);
    format.extend(extra);
    format.extend([name, "-"]);
    assert!(cryptsetup(&format, PASSWORD));
    let new = path.with_extension("new");
    fs::write(&new, "second").unwrap();
    let add = [
        "luksAddKey",
        "--batch-mode",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
    ];
    let add = [&add[..], &["--key-file", "-", name, new.to_str().unwrap()]].concat();
    assert!(cryptsetup(&add, PASSWORD));
    fs::read(path).unwrap()
}

fn target() -> Target {
    Target {
        number: 2,
        offset: OFFSET,
        size: VOLUME,
    }
}

fn around(volume: &[u8]) -> Vec<u8> {
    let mut disk = vec![0xa5; usize::try_from(OFFSET).unwrap()];
    disk.extend_from_slice(volume);
    disk.extend(vec![0x5a; usize::try_from(AFTER).unwrap()]);
    disk
}

/// Salts, digests and key material of a volume, by its own metadata.
fn secrets(volume: &[u8]) -> Vec<Vec<u8>> {
    let end = 4096 + volume[4096..].iter().position(|b| *b == 0).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&volume[4096..end]).unwrap();
    let mut found = vec![volume[4096..end].to_vec(), volume[..512].to_vec()];
    let number = |value: &serde_json::Value| value.as_str().unwrap().parse::<usize>().unwrap();
    for slot in json["keyslots"].as_object().unwrap().values() {
        let start = number(&slot["area"]["offset"]);
        found.push(volume[start..start + number(&slot["area"]["size"])].to_vec());
        found.push(slot["kdf"]["salt"].as_str().unwrap().into());
    }
    for digest in json["digests"].as_object().unwrap().values() {
        found.push(digest["salt"].as_str().unwrap().into());
        found.push(digest["digest"].as_str().unwrap().into());
    }
    assert!(found.len() >= 8, "two keyslots, one digest");
    found
}

/// How many windows of 32 bytes of `old` are anywhere in `disk`. Windows of few different bytes are nobody's secret.
fn survivors(old: &[Vec<u8>], disk: &[u8]) -> usize {
    let telling = |window: &&[u8]| window.iter().collect::<HashSet<_>>().len() > 8;
    let known: HashSet<&[u8]> = old
        .iter()
        .flat_map(|piece| piece.windows(32))
        .filter(telling)
        .collect();
    assert!(known.len() > 1000);
    // A window that begins with four equal bytes is found by the next one.
    let uniform = |w: &[u8]| w[0] == w[1] && w[1] == w[2] && w[2] == w[3];
    disk.windows(32)
        .filter(|window| !uniform(window) && known.contains(window))
        .take(1001)
        .count()
}

/// In memory where there is such a directory: much is written and flushed.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// A file whose holes cannot be punched: what is gone was overwritten.
struct NoDiscard(BlockDevice);

impl Disk for NoDiscard {
    fn len(&self) -> u64 {
        Disk::len(&self.0)
    }
    fn sector_size(&self) -> u32 {
        self.0.sector_size()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Uncached for NoDiscard {
    fn drop_cache(&mut self) -> io::Result<()> {
        self.0.drop_cache()
    }
}

fn open(path: &Path) -> BlockDevice {
    BlockDevice::open(path, true, Some(512)).unwrap()
}

#[test]
fn nothing_of_a_real_volume_is_left_and_nothing_else_is_touched() {
    let dir = scratch();
    let old = volume(&dir.path().join("v"), &[]);
    let secrets = secrets(&old);
    let path = dir.path().join("disk");
    fs::write(&path, around(&old)).unwrap();
    assert!(
        survivors(&secrets, &fs::read(&path).unwrap()) > 1000,
        "the scan finds what is there"
    );

    let done = erase(&mut NoDiscard(open(&path)), &target(), Depth::Keys).unwrap();
    assert!(!done.discarded);
    assert_eq!((done.kind, done.change), (Kind::Luks2, Change::Changed));
    assert!(done.bytes >= 16 << 20);
    let now = fs::read(&path).unwrap();
    assert_eq!(survivors(&secrets, &now), 0);
    assert!(
        now[..usize::try_from(OFFSET).unwrap()]
            .iter()
            .all(|b| *b == 0xa5)
    );
    assert!(
        now[usize::try_from(OFFSET + VOLUME).unwrap()..]
            .iter()
            .all(|b| *b == 0x5a)
    );

    // What is left opens with nothing, also not after cryptsetup has tried to repair it.
    let left = dir.path().join("left");
    fs::write(&left, &now[usize::try_from(OFFSET).unwrap()..][..old.len()]).unwrap();
    let name = left.to_str().unwrap();
    assert!(!cryptsetup(&["isLuks", name], b""));
    assert!(!cryptsetup(&["repair", "--batch-mode", name], b""));
    assert!(!cryptsetup(
        &["open", "--test-passphrase", "--key-file", "-", name],
        PASSWORD
    ));
    let again = erase(&mut open(&path), &target(), Depth::Keys).unwrap();
    assert_eq!((again.kind, again.change), (Kind::Other, Change::Unchanged));
}

#[test]
fn keys_behind_the_default_area_are_found_through_either_header() {
    let dir = scratch();
    let sizes = [
        "--luks2-metadata-size",
        "4m",
        "--luks2-keyslots-size",
        "20m",
    ];
    let old = volume(&dir.path().join("v"), &sizes);
    for lost in [0usize, 4 << 20] {
        let mut disk = around(&old);
        let at = usize::try_from(OFFSET).unwrap() + lost;
        disk[at..at + 8192].fill(0xee);
        let far = usize::try_from(OFFSET).unwrap() + (27 << 20);
        let key: Vec<u8> = (0..=255).collect();
        disk[far..far + key.len()].copy_from_slice(&key);
        let path = dir.path().join("disk");
        fs::write(&path, disk).unwrap();
        let device = open(&path);
        let extent = luks::survey(&device, OFFSET, VOLUME).unwrap();
        assert_eq!(
            (extent.kind, extent.headers, extent.keys),
            (Kind::Luks2, 8 << 20, 28 << 20)
        );
        erase(&mut NoDiscard(open(&path)), &target(), Depth::Keys).unwrap();
        let now = fs::read(&path).unwrap();
        assert_eq!(survivors(&secrets(&old), &now), 0);
        assert!(now[far..far + key.len()].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn hostile_sizes_are_capped_and_damage_widens_the_search() {
    let dir = scratch();
    let old = volume(&dir.path().join("v"), &[]);
    let path = dir.path().join("disk");
    let survey = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut volume = old.clone();
        change(&mut volume);
        fs::write(&path, around(&volume)).unwrap();
        luks::survey(&open(&path), OFFSET, VOLUME).unwrap()
    };
    let json = |volume: &mut Vec<u8>, text: &[u8]| {
        for at in [4096, 0x4000 + 4096] {
            volume[at..at + 12288].fill(0);
            volume[at..at + text.len()].copy_from_slice(text);
        }
    };
    let huge = br#"{"keyslots":{"0":{"area":{"offset":"18446744073709551615","size":"9"}}},"segments":{"0":{"offset":"99999999999999"}}}"#;
    let extent = survey(&|volume| json(volume, huge));
    assert_eq!((extent.kind, extent.keys), (Kind::Luks2, luks::KEYS));
    fs::write(&path, around(&old)).unwrap();
    let none = survey(&|volume| json(volume, b"{\"keyslots\":[[["));
    assert_eq!(
        (none.kind, none.headers, none.keys),
        (Kind::Damaged, luks::HEADERS, luks::KEYS)
    );
    let plain = survey(&|volume| volume[..0x8000].fill(1));
    assert_eq!((plain.kind, plain.keys), (Kind::Other, 0));
    for depth in [Depth::Keys, Depth::Whole] {
        erase(&mut open(&path), &target(), depth).unwrap();
    }
}

#[test]
fn the_data_of_a_plain_partition_needs_the_whole_depth() {
    let mut disk = MemoryDisk::new(OFFSET + VOLUME);
    let secret = b"a marker in the middle of a plain file system";
    disk.store(OFFSET + (20 << 20), secret);
    assert!(disk.holds(secret));
    let done = erase(&mut disk, &target(), Depth::Whole).unwrap();
    assert_eq!((done.kind, done.bytes), (Kind::Other, VOLUME));
    assert!(!disk.holds(secret));
}

#[test]
fn ranges_off_the_disk_and_tiny_partitions() {
    let mut disk = MemoryDisk::new(1 << 20);
    let beyond = Target {
        number: 9,
        offset: u64::MAX - 1,
        size: 5,
    };
    assert!(matches!(
        erase(&mut disk, &beyond, Depth::Keys),
        Err(EraseError::Range { number: 9, .. })
    ));
    disk.store(0, &[7; 16384]);
    for size in [0, 512, 4096] {
        erase(
            &mut disk,
            &Target {
                number: 1,
                offset: 512,
                size,
            },
            Depth::Keys,
        )
        .unwrap();
        let end = usize::try_from(size).unwrap();
        assert!(
            disk.bytes(512, 8192)[end..].iter().all(|b| *b == 7),
            "{size}: the neighbour's"
        );
        disk.store(0, &[7; 16384]);
    }
}

/// A device that says yes and does nothing.
struct Liar(MemoryDisk);

impl Disk for Liar {
    fn len(&self) -> u64 {
        self.0.size
    }
    fn sector_size(&self) -> u32 {
        512
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Uncached for Liar {
    fn drop_cache(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_write_that_did_not_happen_is_noticed() {
    let mut disk = MemoryDisk::new(OFFSET + VOLUME);
    disk.store(OFFSET + (9 << 20), b"key");
    let error = erase(&mut Liar(disk), &target(), Depth::Keys).unwrap_err();
    assert!(
        matches!(error, EraseError::Survived { number: 2, offset } if offset == OFFSET + (9 << 20))
    );
}

#[test]
fn every_cut_of_an_erasure_can_be_finished() {
    let dir = scratch();
    // Keys far behind what would be wiped without a header that tells of them.
    let old = volume(
        &dir.path().join("v"),
        &[
            "--luks2-metadata-size",
            "16k",
            "--luks2-keyslots-size",
            "30m",
        ],
    );
    let mut sparse = old.clone();
    // Key material at the far end of the area, where the test can see it.
    let far = 29 << 20;
    sparse[far..far + 64].copy_from_slice(&old[32768..32768 + 64]);
    let mut before = MemoryDisk::new(OFFSET + VOLUME + AFTER);
    before.no_discard = true;
    for (index, block) in sparse.chunks(4096).enumerate() {
        // cryptsetup fills unused key areas at random: enough of it is left out to keep the log short.
        let at = index * 4096;
        if at < 1 << 20 || (far..far + 4096).contains(&at) {
            before.store(OFFSET + at as u64, block);
        }
    }
    let secret = &sparse[far..far + 32];
    let mut whole = before.clone();
    erase(&mut whole, &target(), Depth::Keys).unwrap();
    let events = std::mem::take(&mut whole.events);
    assert!(events.len() > 15, "{}", events.len());
    for cut in 0..=events.len() {
        for lost in (0..=unflushed(&events[..cut])).step_by(3) {
            let mut disk = before.clone();
            let kept = events[..cut]
                .iter()
                .enumerate()
                .filter(|(at, _)| lost == 0 || *at != cut - lost);
            kept.for_each(|(_, event)| disk.replay(event));
            erase(&mut disk, &target(), Depth::Keys).unwrap();
            assert!(
                !disk.holds(secret),
                "cut {cut}, write {lost} from the end lost"
            );
            assert!(!disk.holds(b"LUKS\xba\xbe") && !disk.holds(b"SKUL\xba\xbe"));
        }
    }
}

/// Writes since the last flush.
fn unflushed(events: &[Event]) -> usize {
    events
        .iter()
        .rev()
        .take_while(|event| matches!(event, Event::Write(..)))
        .count()
}
