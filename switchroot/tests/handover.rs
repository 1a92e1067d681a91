//! The hand-over itself. The test binary is static, so it plays all three parts: the test, PID 1 of an initramfs that
//! is a tmpfs in its own namespaces, and the init of the new root. Needs root and unshare(1).
#![expect(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use common::{mounted_at, mounts, private_mounts, tmpfs, tmpfs_at, write};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::mount::mount_move;
use rustix::process::{Resource, Rlimit, chdir, chroot, getrlimit, setrlimit};
use switchroot::{
    Attributes, HandoverError, NewRoot, Root, apply, check_init, early_api_mounts, handover,
};
use sys::process::Inherited;

const NEW_ROOT: &str = "/usr/lib/systemd/systemd";
const STAGING: &str = "/sysroot";

/// Runs one of the parts below as PID 1 of namespaces of its own, on a tmpfs of which this thread can see the rest.
fn play(part: &str, initramfs: &Path) -> Output {
    let program = std::env::current_exe().unwrap();
    fs::copy(&program, initramfs.join("init")).unwrap();
    Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--propagation", "unchanged"])
        .arg(program)
        .args([
            "--exact",
            part,
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("INITRAMFS", initramfs)
        .env("SECRET", "of the initramfs")
        .env("TERM", "vt220")
        .output()
        .unwrap()
}

fn assert_said(output: &Output, word: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains(word),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_new_init_gets_a_clean_machine_and_the_old_memory_is_free() {
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let initramfs = dir.path().join("initramfs");
    tmpfs_at(&initramfs);
    let output = play("part_initramfs", &initramfs);
    assert_said(&output, "the initramfs is ready");
    assert_said(&output, "the new init is content");
    let left: Vec<_> = fs::read_dir(&initramfs)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(
        left,
        ["other"],
        "all but the mount point of another file system"
    );
    assert!(
        dir.path().join("bystander").join("file").exists(),
        "the deletion crossed a file system boundary"
    );
}

#[test]
fn a_failure_before_the_point_of_no_return_leaves_all_as_it_was() {
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let initramfs = dir.path().join("initramfs");
    tmpfs_at(&initramfs);
    let output = play("part_refused", &initramfs);
    assert_said(&output, "the initramfs is intact");
    assert!(initramfs.join("init").exists());
}

/// Makes the tmpfs of the outer test `/`, as the kernel does with an initramfs, and fills it.
fn become_initramfs() {
    assert_eq!(std::process::id(), 1);
    let top = std::env::var_os("INITRAMFS").unwrap();
    let top = Path::new(&top);
    fs::create_dir_all(top.join("lib/modules/deep/below")).unwrap();
    fs::write(top.join("lib/modules/deep/below/file"), vec![1; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("/usr", top.join("lib/link")).unwrap();
    // Another file system within the initramfs, which is not ours to delete.
    let bystander = top.parent().unwrap().join("bystander");
    fs::create_dir(&bystander).unwrap();
    fs::write(bystander.join("file"), "").unwrap();
    fs::create_dir(top.join("other")).unwrap();
    rustix::mount::mount_bind(&bystander, top.join("other")).unwrap();

    chdir(top).unwrap();
    mount_move(".", "/").unwrap();
    chroot(".").unwrap();
    chdir("/").unwrap();
    apply(File::open("/").unwrap().as_fd(), &early_api_mounts()).unwrap();
    fs::create_dir("/run/credentials").unwrap();
    fs::write("/run/credentials/marker", "handed over").unwrap();
}

fn new_root() -> Root {
    let usr = tmpfs();
    write(&usr, "lib/os-release", b"ID=test\n", 0o644);
    fs::create_dir(format!(
        "/proc/self/fd/{}/bin",
        std::os::fd::AsRawFd::as_raw_fd(&usr)
    ))
    .unwrap();
    write(
        &usr,
        "lib/systemd/systemd",
        &fs::read("/init").unwrap(),
        0o755,
    );
    NewRoot::new(tmpfs())
        .mount("usr", usr, Attributes::RDONLY)
        .mount("home", tmpfs(), Attributes::NODEV)
        .assemble(Path::new(STAGING))
        .unwrap()
}

#[test]
#[ignore = "a part of the first test"]
fn part_initramfs() {
    become_initramfs();
    let inherited = Inherited::capture();
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(99),
            maximum,
        },
    )
    .unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    fs::write("/proc/self/oom_score_adj", "500").unwrap();
    let leak = fcntl_dupfd_cloexec(File::open("/dev/null").unwrap(), 50).unwrap();
    fcntl_setfd(&leak, FdFlags::empty()).unwrap();

    let root = new_root();
    let init = check_init(&root, &[]).unwrap();
    println!("the initramfs is ready");
    let arguments = [
        "--exact",
        "part_new_init",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]
    .map(OsString::from);
    let Err(error) = handover(root, &init, &arguments, &inherited);
    panic!("{error}: {:?}", std::error::Error::source(&error));
}

#[test]
#[ignore = "a part of the first test"]
fn part_new_init() {
    assert_eq!(std::process::id(), 1);
    assert_eq!(std::env::args().next().as_deref(), Some(NEW_ROOT));
    let environment: Vec<_> = std::env::vars().collect();
    assert_eq!(environment, [("TERM".to_owned(), "vt220".to_owned())]);
    assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));

    let mut fds: Vec<i32> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    fds.sort_unstable();
    assert!(
        fds.len() <= 4 && fds.iter().all(|fd| *fd < 50),
        "0 to 2 and the listing's own: {fds:?}"
    );

    for (at, fstype) in [
        ("/usr", "tmpfs"),
        ("/home", "tmpfs"),
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev", "devtmpfs"),
        ("/run", "tmpfs"),
    ] {
        let seen = mounted_at(Path::new(at));
        assert!(
            seen.len() == 1 && seen[0].fstype == fstype,
            "{at}: {seen:?}"
        );
    }
    assert!(mounted_at(Path::new("/usr"))[0].has("ro"));
    assert!(
        !mounts().iter().any(|m| m.at.starts_with(STAGING)),
        "{:?}",
        mounts()
    );
    assert_eq!(
        fs::read_to_string("/run/credentials/marker").unwrap(),
        "handed over"
    );
    assert!(!Path::new("/init").exists() && Path::new("/bin").is_symlink());
    assert_eq!(fs::metadata("/tmp").unwrap().mode() & 0o7777, 0o1777);

    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |key: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(key))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_ne!(field("Umask:"), "0077");
    assert_eq!(field("SigBlk:"), "0000000000000000");
    assert_eq!(
        fs::read_to_string("/proc/self/oom_score_adj")
            .unwrap()
            .trim(),
        "0"
    );
    assert_ne!(getrlimit(Resource::Nofile).current, Some(99));
    println!("the new init is content");
}

#[test]
#[ignore = "a part of the second test"]
fn part_refused() {
    become_initramfs();
    let root = new_root();
    let init = check_init(&root, &[]).unwrap();
    // The last mount to move finds a file in its place.
    let run = Path::new(STAGING).join("run");
    fs::remove_dir(&run).unwrap();
    fs::write(&run, "").unwrap();
    let before = mounts();
    let Err(error) = handover(root, &init, &[], &Inherited::capture());
    assert!(
        matches!(&error, HandoverError::Intact { operation, .. } if operation.contains("/run")),
        "{error}"
    );

    let after = mounts();
    for at in ["/proc", "/sys", "/dev", "/run", "/sys/kernel/security"] {
        assert_eq!(mounted_at(Path::new(at)).len(), 1, "{at}");
    }
    assert!(
        after.len() < before.len() && !after.iter().any(|m| m.at.starts_with(STAGING)),
        "the tree is taken apart"
    );
    assert_eq!(
        fs::read_to_string("/run/credentials/marker").unwrap(),
        "handed over"
    );
    assert!(fs::metadata("/init").unwrap().permissions().mode() & 0o111 != 0);
    println!("the initramfs is intact");
}
