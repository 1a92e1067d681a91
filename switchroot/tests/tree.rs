//! The new root as a tree: its skeleton, what is mounted where, and the program it is handed to. Needs root.
#![expect(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use common::{mounted_at, mounts, private_mounts, tmpfs, tmpfs_at, write};
use switchroot::{
    Attributes, Error, NewRoot, Outcome, Root, apply, check_init, early_api_mounts, efi_mounts,
};

const STATIC: &str = "/proc/self/exe";

fn usr() -> OwnedFd {
    let usr = tmpfs();
    write(&usr, "lib/os-release", b"ID=test\n", 0o644);
    write(
        &usr,
        "lib/systemd/systemd",
        &fs::read(STATIC).unwrap(),
        0o755,
    );
    write(&usr, "bin/true", b"", 0o755);
    write(&usr, "sbin/init", b"", 0o755);
    usr
}

fn assembled(dir: &Path, usr: OwnedFd) -> Root {
    NewRoot::new(tmpfs())
        .mount("usr", usr, Attributes::RDONLY)
        .assemble(&dir.join("sysroot"))
        .unwrap()
}

#[test]
fn api_mounts_are_made_once_with_the_options_systemd_expects() {
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().join("top");
    tmpfs_at(&top);
    let root = fs::File::open(&top).unwrap();
    let first = apply(root.as_fd(), &early_api_mounts()).unwrap();
    assert!(
        first.iter().all(|o| matches!(o, Outcome::Changed)),
        "{first:?}"
    );

    for (at, fstype, attributes) in [
        ("proc", "proc", &["nosuid", "nodev", "noexec"][..]),
        ("sys", "sysfs", &["nosuid", "nodev", "noexec"]),
        ("dev", "devtmpfs", &["nosuid"]),
        ("run", "tmpfs", &["nosuid", "nodev"]),
        (
            "sys/kernel/security",
            "securityfs",
            &["nosuid", "nodev", "noexec"],
        ),
    ] {
        let seen = mounted_at(&top.join(at));
        assert_eq!(seen.len(), 1, "{at}: {seen:?}");
        assert_eq!(seen[0].fstype, fstype);
        assert!(attributes.iter().all(|a| seen[0].has(a)), "{seen:?}");
    }
    let run = &mounted_at(&top.join("run"))[0];
    assert!(
        !run.has("relatime") && run.options.contains("mode=755"),
        "strictatime and mode: {run:?}"
    );
    assert!(run.options.contains("nr_inodes=819200"), "{run:?}");
    assert_eq!(
        fs::metadata(top.join("run")).unwrap().mode() & 0o7777,
        0o755
    );
    assert!(
        !mounts()
            .iter()
            .any(|m| m.at.starts_with(&top) && m.fstype.starts_with("cgroup"))
    );

    let before = mounts();
    let second = apply(root.as_fd(), &early_api_mounts()).unwrap();
    assert!(
        second.iter().all(|o| matches!(o, Outcome::Unchanged)),
        "{second:?}"
    );
    assert_eq!(mounts(), before);
}

#[test]
fn without_efi_its_variables_are_skipped() {
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("sys/firmware")).unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    let outcomes = apply(root.as_fd(), &efi_mounts()).unwrap();
    assert!(
        matches!(outcomes[..], [Outcome::Skipped(_)]),
        "{outcomes:?}"
    );
}

#[test]
fn an_empty_root_becomes_a_merged_usr_system() {
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let staging = dir.path().join("sysroot");
    let home = tmpfs();
    let before = mounts();
    let new = NewRoot::new(tmpfs())
        .mount("usr", usr(), Attributes::RDONLY)
        .mount("home", home, Attributes::NODEV | Attributes::NOSUID);
    write(&new.fd(), "etc/machine-id", b"uninitialized\n", 0o444);
    assert_eq!(mounts(), before, "nothing is visible before it is complete");
    let root = new.assemble(&staging).unwrap();

    for (path, mode) in [
        ("tmp", 0o1777),
        ("root", 0o700),
        ("proc", 0o555),
        ("var", 0o755),
        ("etc", 0o755),
        ("efi", 0o755),
    ] {
        assert_eq!(
            fs::metadata(staging.join(path)).unwrap().mode() & 0o7777,
            mode,
            "{path}"
        );
    }
    for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
        assert_eq!(
            fs::read_link(staging.join(link)).unwrap(),
            Path::new(target)
        );
    }
    assert!(
        !staging.join("lib64").is_symlink(),
        "this /usr has no lib64"
    );
    let (usr, home) = (
        mounted_at(&staging.join("usr")),
        mounted_at(&staging.join("home")),
    );
    assert!(usr.len() == 1 && usr[0].has("ro"), "{usr:?}");
    assert!(
        home.len() == 1 && home[0].has("nodev") && home[0].has("nosuid") && home[0].has("rw"),
        "{home:?}"
    );
    assert_eq!(root.skipped().len(), 0);
    assert_eq!(
        check_init(&root, &[]).unwrap().path(),
        Path::new("/usr/lib/systemd/systemd")
    );

    drop(root);
    assert_eq!(mounts(), before, "dropping it takes it apart");
}

#[test]
fn what_is_there_stays() {
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let staging = dir.path().join("sysroot");
    let new = NewRoot::new(tmpfs()).mount("usr", usr(), Attributes::NONE);
    write(&new.fd(), "bin/own", b"", 0o755);
    write(&new.fd(), "tmp", b"a file", 0o600);
    let fd = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&new.fd())
    );
    symlink("/elsewhere", format!("{fd}/var")).unwrap();
    let root = new.assemble(&staging).unwrap();
    assert!(staging.join("bin/own").is_file());
    assert_eq!(fs::read(staging.join("tmp")).unwrap(), b"a file");
    assert_eq!(
        fs::read_link(staging.join("var")).unwrap(),
        Path::new("/elsewhere")
    );
    drop(root);
}

#[test]
fn no_symlink_of_the_root_leads_a_mount_elsewhere() {
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let new = NewRoot::new(tmpfs()).mount("usr", usr(), Attributes::NONE);
    let fd = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&new.fd())
    );
    symlink(&elsewhere, format!("{fd}/usr")).unwrap();
    let before = mounts();
    let error = new.assemble(&dir.path().join("sysroot")).unwrap_err();
    assert!(matches!(error, Error::Step { .. }), "{error}");
    assert_eq!(mounts(), before);
}

#[test]
fn a_tree_without_os_release_is_refused() {
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let usr = tmpfs();
    write(
        &usr,
        "lib/systemd/systemd",
        &fs::read(STATIC).unwrap(),
        0o755,
    );
    assert!(matches!(
        check_init(&assembled(dir.path(), usr), &[]),
        Err(Error::NotAnOsTree)
    ));
}

#[test]
fn only_a_program_that_can_run_becomes_init() {
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let program = fs::read(STATIC).unwrap();
    let usr = tmpfs();
    write(&usr, "lib/os-release", b"ID=test\n", 0o644);
    write(&usr, "bin/good", &program, 0o755);
    write(&usr, "bin/plain", &program, 0o644);
    write(&usr, "bin/text", b"hello", 0o755);
    write(&usr, "bin/empty", b"", 0o755);
    write(&usr, "bin/script", b"#!/usr/bin/good --flag\n", 0o755);
    write(&usr, "bin/orphan", b"#! /usr/bin/nobody\n", 0o755);
    write(&usr, "bin/dynamic", &fs::read("/bin/true").unwrap(), 0o755);
    let mut foreign = program.clone();
    foreign[18] = 0x28;
    write(&usr, "bin/foreign", &foreign, 0o755);
    write(&usr, "bin/torn", &program[..40], 0o755);
    let fd = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&usr));
    symlink("/usr/bin/good", format!("{fd}/bin/absolute")).unwrap();
    symlink("../../../../../usr/bin/good", format!("{fd}/bin/upwards")).unwrap();
    symlink("/bin/sh", format!("{fd}/bin/outside")).unwrap();
    let root = assembled(dir.path(), usr);

    for name in ["good", "script", "absolute", "upwards"] {
        let path = Path::new("/usr/bin").join(name);
        assert_eq!(check_init(&root, &[&path]).unwrap().path(), path);
    }
    for (path, reason) in [
        ("/usr/bin/plain", "not executable"),
        ("/usr/bin/text", "neither an ELF program nor a script"),
        ("/usr/bin/empty", "neither an ELF program nor a script"),
        (
            "/usr/bin/orphan",
            "its interpreter /usr/bin/nobody: No such file",
        ),
        ("/usr/bin/dynamic", "its interpreter /lib64/ld-linux"),
        ("/usr/bin/foreign", "for another machine"),
        ("/usr/bin/torn", "broken ELF"),
        ("/usr/bin/outside", "No such file"),
        ("/usr/bin", "not a regular file"),
        ("usr/bin/good", "not an absolute path"),
    ] {
        let error = check_init(&root, &[Path::new(path)])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(path) && error.contains(reason),
            "{path}: {error}"
        );
    }
    let second = check_init(
        &root,
        &[Path::new("/usr/bin/text"), Path::new("/usr/bin/good")],
    )
    .unwrap();
    assert_eq!(second.path(), Path::new("/usr/bin/good"));
    let none = check_init(&root, &[]).unwrap_err().to_string();
    assert!(
        none.contains("/usr/lib/systemd/systemd")
            && none.contains("/sbin/init")
            && !none.contains("/bin/sh"),
        "{none}"
    );
}

#[test]
fn an_init_on_a_noexec_mount_is_refused() {
    private_mounts();
    let dir = tempfile::tempdir().unwrap();
    let root = NewRoot::new(tmpfs())
        .mount("usr", usr(), Attributes::NOEXEC)
        .assemble(&dir.path().join("s"))
        .unwrap();
    let error = check_init(&root, &[]).unwrap_err().to_string();
    assert!(error.contains("noexec"), "{error}");
}
