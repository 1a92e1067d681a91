//! A mount namespace of the test's own thread, and what the kernel says is mounted in it.
#![expect(clippy::unwrap_used, reason = "a test may")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::UnshareFlags;
use switchroot::{MountOptions, Source, Step, apply, mount_virtual};

/// From here on this thread's mounts are seen by nobody else. Needs root.
pub fn private_mounts() {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests mount: run them as root"
    );
    #[expect(
        deprecated,
        reason = "a mount namespace alone breaks no promise of Rust's"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNS).unwrap();
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .unwrap();
}

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub at: PathBuf,
    pub attributes: String,
    pub fstype: String,
    pub options: String,
}

impl Seen {
    pub fn has(&self, attribute: &str) -> bool {
        self.attributes.split(',').any(|a| a == attribute)
    }
}

/// All mounts of this thread's namespace.
pub fn mounts() -> Vec<Seen> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ").unwrap();
        let (left, right): (Vec<&str>, Vec<&str>) =
            (left.split(' ').collect(), right.split(' ').collect());
        Seen {
            at: left[4].into(),
            attributes: left[5].into(),
            fstype: right[0].into(),
            options: (*right.last().unwrap()).into(),
        }
    };
    text.lines().map(parse).collect()
}

/// The mounts at exactly this path, lowest first.
pub fn mounted_at(path: &Path) -> Vec<Seen> {
    mounts().into_iter().filter(|m| m.at == path).collect()
}

/// A tmpfs that is attached nowhere.
pub fn tmpfs() -> OwnedFd {
    mount_virtual("tmpfs", &MountOptions::parse("mode=0755")).unwrap()
}

/// A tmpfs attached to a fresh directory.
pub fn tmpfs_at(directory: &Path) {
    let root = fs::File::open(directory.parent().unwrap()).unwrap();
    let name = directory.file_name().unwrap().to_str().unwrap();
    let step = Step::Mount {
        at: Path::new(name).into(),
        what: Source::Virtual {
            fstype: "tmpfs",
            options: "mode=0755",
        },
    };
    apply(
        std::os::fd::AsFd::as_fd(&root),
        &[Step::directory(name, 0o755), step],
    )
    .unwrap();
}

/// Writes a file below a directory descriptor, with its directories.
pub fn write(root: &impl std::os::fd::AsRawFd, path: &str, contents: &[u8], mode: u32) {
    let path = Path::new("/proc/self/fd")
        .join(root.as_raw_fd().to_string())
        .join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, contents).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn run(command: &mut Command) -> String {
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
