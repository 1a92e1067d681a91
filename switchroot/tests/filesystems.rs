//! Real file systems on loop devices, made by their own tools. Needs root, losetup, e2fsprogs, erofs-utils,
//! squashfs-tools, btrfs-progs, dosfstools, cryptsetup.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{mounted_at, mounts, private_mounts, run};
use rustix::io::Errno;
use switchroot::{Attributes, Error, MountOptions, NewRoot, mount_device, probe};

/// A program started by another test holds this test's mounts until its `exec`, so an unmount is not one at once.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    private_mounts();
    guard
}

struct Image {
    node: PathBuf,
    dir: tempfile::TempDir,
}

impl Image {
    /// An image made by a command line, in which IMAGE and TREE stand for it and for a directory with a file in it.
    fn new(size: u64, make: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (image, tree) = (dir.path().join("image"), dir.path().join("tree"));
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("hello"), "from the image").unwrap();
        File::create(&image).unwrap().set_len(size).unwrap();
        if let [program, arguments @ ..] = make {
            let place = |a: &&str| match *a {
                "IMAGE" => image.clone().into_os_string(),
                "TREE" => tree.clone().into_os_string(),
                other => other.into(),
            };
            run(Command::new(program).args(arguments.iter().map(place)));
        }
        let node = run(Command::new("losetup").args(["-f", "--show"]).arg(&image));
        Self {
            node: node.trim().into(),
            dir,
        }
    }

    fn ext4() -> Self {
        Self::new(16 << 20, &["mkfs.ext4", "-q", "-d", "TREE", "IMAGE"])
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        run(Command::new("losetup").arg("-d").arg(&self.node));
    }
}

fn read_through(mount: &impl AsRawFd, file: &str) -> String {
    fs::read_to_string(format!("/proc/self/fd/{}/{file}", mount.as_raw_fd())).unwrap()
}

#[test]
fn a_device_is_mounted_as_what_its_superblock_says_and_nobody_sees_it() {
    let _alone = alone();
    let kinds: [(&str, u64, &[&str]); 4] = [
        (
            "ext4",
            16 << 20,
            &["mkfs.ext4", "-q", "-d", "TREE", "IMAGE"],
        ),
        ("erofs", 0, &["mkfs.erofs", "IMAGE", "TREE"]),
        (
            "squashfs",
            0,
            &["mksquashfs", "TREE", "IMAGE", "-noappend", "-quiet"],
        ),
        (
            "btrfs",
            128 << 20,
            &["mkfs.btrfs", "-q", "-r", "TREE", "IMAGE"],
        ),
    ];
    let before = mounts();
    for (fstype, size, make) in kinds {
        let image = Image::new(size, make);
        let mounted = mount_device(&image.node, &[], &MountOptions::default().read_only()).unwrap();
        assert_eq!(mounted.fstype, fstype);
        assert_eq!(read_through(&mounted.mount, "hello"), "from the image");
        assert_eq!(mounts(), before, "a detached mount is in no table");
        let denied = rustix::fs::mkdirat(&mounted.mount, "new", rustix::fs::Mode::RWXU);
        assert_eq!(denied, Err(Errno::ROFS));
    }
}

#[test]
fn superblocks_that_are_no_file_system_are_named_too() {
    let _alone = alone();
    let swap = Image::new(1 << 20, &["mkswap", "IMAGE"]);
    assert_eq!(probe::device(&swap.node).unwrap(), Some("swap"));
    let luks = Image::new(
        20 << 20,
        &[
            "cryptsetup",
            "luksFormat",
            "-q",
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            "--key-file",
            "/etc/hostname",
            "IMAGE",
        ],
    );
    assert_eq!(probe::device(&luks.node).unwrap(), Some("crypto_LUKS"));
    let vfat = Image::new(40 << 20, &["mkfs.vfat", "-F", "32", "IMAGE"]);
    assert_eq!(probe::device(&vfat.node).unwrap(), Some("vfat"));
    // xfsprogs is not among the tools the tests install; its superblock begins with these letters.
    let xfs = tempfile::NamedTempFile::new().unwrap();
    fs::write(xfs.path(), b"XFSB\0\0\x10\0").unwrap();
    assert_eq!(probe::file(xfs.as_file()).unwrap(), Some("xfs"));
    let short = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(probe::file(short.as_file()).unwrap(), None);
}

#[test]
fn an_empty_device_is_an_error_of_its_own() {
    let _alone = alone();
    let image = Image::new(4 << 20, &[]);
    let error = mount_device(&image.node, &[], &MountOptions::default()).unwrap_err();
    assert!(
        matches!(&error, Error::UnknownFileSystem { device } if *device == image.node),
        "{error}"
    );
}

#[test]
fn types_are_tried_in_order_and_each_failure_is_told() {
    let _alone = alone();
    let image = Image::ext4();
    let mounted = mount_device(&image.node, &["btrfs", "ext4"], &MountOptions::default()).unwrap();
    assert_eq!(mounted.fstype, "ext4");
    drop(mounted);
    let error = mount_device(
        &image.node,
        &["btrfs", "nosuchfs"],
        &MountOptions::default(),
    )
    .unwrap_err();
    let Error::Mount { attempts, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        attempts
            .iter()
            .map(|a| a.fstype.as_str())
            .collect::<Vec<_>>(),
        ["btrfs", "nosuchfs"]
    );
    assert!(
        error.to_string().contains("its module is missing"),
        "{error}"
    );
}

#[test]
fn the_kernels_own_words_are_in_the_error() {
    let _alone = alone();
    let image = Image::ext4();
    let error =
        mount_device(&image.node, &["ext4"], &MountOptions::parse("nonsense=1")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("nonsense") && text.contains(image.node.to_str().unwrap()),
        "{text}"
    );
    assert!(
        !text.contains("(e "),
        "level letters are the kernel's business: {text}"
    );
}

#[test]
fn options_reach_the_file_system_and_attributes_the_mount() {
    let _alone = alone();
    let image = Image::ext4();
    let options = MountOptions::parse("nodev,noatime,data=writeback,commit=7,x-systemd.growfs");
    let mounted = mount_device(&image.node, &["ext4"], &options).unwrap();
    let staging = image.directory("staging");
    let root = NewRoot::new(mounted.mount).assemble(&staging).unwrap();
    let seen = mounted_at(&staging);
    assert_eq!(seen.len(), 1);
    assert!(
        seen[0].has("nodev") && seen[0].has("noatime") && seen[0].has("rw"),
        "{seen:?}"
    );
    assert!(
        seen[0].options.contains("commit=7") && seen[0].options.contains("data=writeback"),
        "{seen:?}"
    );
    drop(root);
    assert_eq!(mounted_at(&staging), []);
}

#[test]
fn a_read_only_root_that_has_its_directories_is_taken_and_one_that_has_not_is_refused() {
    let _alone = alone();
    let image = Image::ext4();
    let staging = image.directory("staging");
    let open = |options: &MountOptions| {
        NewRoot::new(mount_device(&image.node, &["ext4"], options).unwrap().mount)
    };
    let read_only = MountOptions::default().read_only();
    let error = open(&read_only).assemble(&staging).unwrap_err();
    assert!(
        matches!(&error, Error::Step { step, .. } if step.contains("usr")),
        "{error}"
    );
    assert_eq!(mounted_at(&staging), []);
    drop(open(&MountOptions::default()).assemble(&staging).unwrap());
    let root = open(&read_only.with(Attributes::NOSUID))
        .assemble(&staging)
        .unwrap();
    assert_eq!(root.skipped().len(), 0);
    let seen = mounted_at(&staging);
    assert!(seen[0].has("ro") && seen[0].has("nosuid"), "{seen:?}");
    assert!(Path::new(&staging).join("hello").exists());
}
