//! Block device and swap calls against a loop device over a file. Needs root, losetup and mkswap.
#![expect(clippy::unwrap_used, reason = "a test may")]

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sys::swap::{self, Discard};
use sys::{block, efivar};

const MIB: u64 = 1 << 20;

struct Loop {
    node: PathBuf,
    _image: tempfile::NamedTempFile,
}

impl Loop {
    fn new(size: u64, sector: u32) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(size).unwrap();
        let node = run(Command::new("losetup")
            .args(["-f", "--show", "-P", "--sector-size", &sector.to_string()])
            .arg(image.path()));
        Self {
            node: node.trim().into(),
            _image: image,
        }
    }

    fn open(&self) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.node)
            .unwrap()
    }

    fn sysfs(&self, partition: u32, file: &str) -> Option<String> {
        let name = self.node.file_name().unwrap().to_str().unwrap();
        let path = format!("/sys/class/block/{name}/{name}p{partition}/{file}");
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(Command::new("losetup").arg("-d").arg(&self.node));
    }
}

fn run(command: &mut Command) -> String {
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn geometry_is_the_devices() {
    let device = Loop::new(8 * MIB, 4096);
    let file = device.open();
    assert_eq!(block::size(file.as_fd()).unwrap(), 8 * MIB);
    assert_eq!(block::sector_size(file.as_fd()).unwrap(), 4096);
    assert!(block::disk_sequence(file.as_fd()).unwrap() > 0);
    assert_eq!(
        block::size(File::open("/dev/null").unwrap().as_fd())
            .unwrap_err()
            .raw_os_error(),
        Some(libc::ENOTTY)
    );
}

#[test]
fn a_zeroed_range_reads_as_zeroes_and_its_neighbours_stay() {
    let device = Loop::new(4 * MIB, 512);
    let file = device.open();
    file.write_all_at(&vec![0xaa; 4 << 20], 0).unwrap();
    block::flush_buffers(file.as_fd()).unwrap();
    block::zero_out(file.as_fd(), MIB, MIB).unwrap();
    block::discard(file.as_fd(), 3 * MIB, MIB).unwrap();
    let mut byte = [1];
    for (at, expected) in [(MIB - 1, 0xaa), (MIB, 0), (2 * MIB - 1, 0), (2 * MIB, 0xaa)] {
        file.read_exact_at(&mut byte, at).unwrap();
        assert_eq!(byte[0], expected, "at {at}");
    }
    assert!(
        block::zero_out(file.as_fd(), 1, 511).is_err(),
        "not a multiple of a sector"
    );
}

#[test]
fn the_kernel_learns_grows_and_forgets_a_partition() {
    let device = Loop::new(16 * MIB, 512);
    let disk = device.open();
    block::add_partition(disk.as_fd(), 7, MIB, 4 * MIB).unwrap();
    assert_eq!(device.sysfs(7, "start").as_deref(), Some("2048"));
    assert_eq!(device.sysfs(7, "size").as_deref(), Some("8192"));
    let again = block::add_partition(disk.as_fd(), 7, MIB, 4 * MIB).unwrap_err();
    assert_eq!(again.raw_os_error(), Some(libc::EBUSY));
    block::resize_partition(disk.as_fd(), 7, MIB, 8 * MIB).unwrap();
    assert_eq!(device.sysfs(7, "size").as_deref(), Some("16384"));
    block::delete_partition(disk.as_fd(), 7).unwrap();
    assert_eq!(device.sysfs(7, "size"), None);
    assert_eq!(
        block::delete_partition(disk.as_fd(), 7)
            .unwrap_err()
            .raw_os_error(),
        Some(libc::ENXIO)
    );
}

#[test]
fn swap_goes_on_and_off() {
    let device = Loop::new(8 * MIB, 512);
    let refused = swap::on(&device.node, Discard::Never).unwrap_err();
    assert_eq!(
        refused.raw_os_error(),
        Some(libc::EINVAL),
        "no swap header yet"
    );
    run(Command::new("mkswap").arg(&device.node));
    for discard in [Discard::Never, Discard::Once, Discard::Always] {
        swap::on(&device.node, discard).unwrap();
        assert!(
            fs::read_to_string("/proc/swaps")
                .unwrap()
                .contains(device.node.to_str().unwrap())
        );
        swap::off(&device.node).unwrap();
    }
    assert!(swap::off(Path::new("/dev/null")).is_err());
}

#[test]
fn the_immutable_flag_is_cleared() {
    // ext4 and btrfs have the flag as efivarfs has; /tmp may be a tmpfs without it.
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    assert!(!efivar::make_mutable(file.as_file().as_fd()).unwrap());
    run(Command::new("chattr").arg("+i").arg(file.path()));
    assert!(efivar::make_mutable(file.as_file().as_fd()).unwrap());
    fs::write(file.path(), "writable again").unwrap();
}
