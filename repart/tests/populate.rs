//! Files in new file systems, judged by other people's tools: debugfs, e2fsck, btrfs, mtools, fsck.vfat.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A directory with `root` (the sources), `defs` and, later, `disk.img`.
struct Work {
    dir: tempfile::TempDir,
}

impl Work {
    fn new(definitions: &[&str]) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir(dir.path().join("defs")).unwrap();
        for (at, text) in definitions.iter().enumerate() {
            let file = dir.path().join(format!("defs/{at:02}.conf"));
            fs::write(file, format!("[Partition]\n{text}\n")).unwrap();
        }
        let work = Self { dir };
        sources(&work.path("root"));
        work
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, extra: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_repart-core"))
            .args([
                "--dry-run=no",
                "--empty=create",
                "--size=2G",
                "--json=short",
            ])
            .arg("--seed=750b6cd5c4ae4012a15e7be3c29e6a47")
            .arg(format!("--definitions={}", self.path("defs").display()))
            .arg(format!("--root={}", self.path("root").display()))
            .args(extra)
            .arg(self.path("disk.img"))
            .env("TMPDIR", self.dir.path())
            .env("PATH", path())
            .output()
            .unwrap()
    }

    /// Makes the image; answers the first partition as a file, and what was said.
    fn made(&self) -> (String, String) {
        let out = self.run(&[]);
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.success(), "{said}");
        let rows: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
        (self.extract(&rows[0]), said)
    }

    fn extract(&self, row: &Value) -> String {
        let number = |key: &str| row[key].as_u64().unwrap();
        let (source, target) = (
            File::open(self.path("disk.img")).unwrap(),
            File::create(self.path("part")).unwrap(),
        );
        target.set_len(number("raw_size")).unwrap();
        let mut buffer = vec![0; 1 << 20];
        for at in (0..number("raw_size")).step_by(1 << 20) {
            let step = usize::try_from(number("raw_size") - at).unwrap();
            let part = &mut buffer[..step.min(1 << 20)];
            source.read_exact_at(part, number("offset") + at).unwrap();
            if part.iter().any(|byte| *byte != 0) {
                target.write_all_at(part, at).unwrap();
            }
        }
        self.path("part").to_str().unwrap().to_owned()
    }
}

/// The project's own mkfs programs first where they are built: Debian 12's mkfs.btrfs knows no subvolumes.
fn path() -> OsString {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist");
    std::env::join_paths([dist, "/usr/sbin".into(), "/usr/bin".into()]).unwrap()
}

fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// What is copied: everything a file can be.
fn sources(root: &Path) {
    for dir in [
        "etc/app",
        "data/deep/er",
        "tmp",
        "var/tmp",
        "usr/share",
        "home",
    ] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
    write("etc/app/app.conf", "answer = 42\n");
    write("data/one", "hard");
    fs::hard_link(root.join("data/one"), root.join("data/two")).unwrap();
    write("data/suid", "program");
    chown(root.join("data/suid"), Some(1234), Some(2345)).unwrap();
    fs::set_permissions(root.join("data/suid"), fs::Permissions::from_mode(0o4755)).unwrap();
    set_attribute(&root.join("data/suid"), "user.colour", b"blue");
    write("data/secret", "leave me");
    write("data/deep/er/file", "deep");
    fs::set_permissions(root.join("data/deep"), fs::Permissions::from_mode(0o1777)).unwrap();
    write("tmp/junk", "junk");
    write("var/tmp/junk", "junk");
    write("home/junk", "junk");
    symlink("../etc/app/app.conf", root.join("data/link")).unwrap();
    // Absolute, and more dots than there are directories: both mean below the root.
    symlink("/etc/app", root.join("app")).unwrap();
    symlink("../../../../../../../etc/app", root.join("dots")).unwrap();
    let sparse = File::create(root.join("data/sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.write_all_at(b"end", (8 << 20) - 3).unwrap();
}

fn tool(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("TZ", "UTC")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success(),
        "{program} {arguments:?}: {text}{said}"
    );
    text + &said
}

fn debugfs(part: &str, command: &str) -> String {
    tool("debugfs", &["-R", command, part])
}

#[test]
fn ext4_keeps_what_a_file_is() {
    let work = Work::new(&[
        "Type=root\nFormat=ext4\nSizeMaxBytes=200M\nCopyFiles=/data\nCopyFiles=/app:/conf\n\
         CopyFiles=/dots/app.conf:/srv/copy.conf\nCopyFiles=/absent\nExcludeFiles=/data/secret\n\
         MakeDirectories=/efi /opt/x/y\nMakeSymlinks=/bin:usr/bin /opt/abs:/data/one",
    ]);
    let (part, said) = work.made();
    tool("e2fsck", &["-fn", &part]);
    assert!(said.contains("/absent is not there, skipped"), "{said}");
    assert_eq!(
        debugfs(&part, "cat /conf/app.conf").lines().next(),
        Some("answer = 42")
    );
    assert!(debugfs(&part, "cat /srv/copy.conf").starts_with("answer = 42"));
    let suid = debugfs(&part, "stat /data/suid");
    assert!(suid.contains("Mode:  04755"), "{suid}");
    assert!(suid.contains("User:  1234   Group:  2345"), "{suid}");
    assert!(debugfs(&part, "ea_list /data/suid").contains("user.colour (4) = \"blue\""));
    let inode = |path: &str| {
        let text = debugfs(&part, &format!("stat {path}"));
        text.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(inode("/data/one"), inode("/data/two"));
    assert!(debugfs(&part, "stat /data/one").contains("Links: 2"));
    assert!(debugfs(&part, "stat /data/deep").contains("Mode:  01777"));
    assert!(debugfs(&part, "cat /data/deep/er/file").starts_with("deep"));
    assert!(debugfs(&part, "stat /data/link").contains("\"../etc/app/app.conf\""));
    assert!(debugfs(&part, "stat /bin").contains("\"usr/bin\""));
    assert!(debugfs(&part, "stat /opt/x/y").contains("Mode:  0755"));
    assert!(debugfs(&part, "stat /data/secret").contains("File not found"));
    // 8 MiB with one block of data.
    let sparse = debugfs(&part, "stat /data/sparse");
    assert!(
        sparse.contains("Size: 8388608") && sparse.contains("Blockcount: 8"),
        "{sparse}"
    );
    let attributes = debugfs(&part, "ea_list /");
    for (name, value) in [
        ("mount_point", "/"),
        ("gpt_label", "root-x86-64"),
        ("gpt_type_uuid", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    ] {
        let line = format!("user.validatefs.{name} ({}) = \"{value}\"", value.len());
        assert!(attributes.contains(&line), "{attributes}");
    }
    let mtime = fs::metadata(work.path("root/data/one")).unwrap();
    let seconds = std::os::unix::fs::MetadataExt::mtime(&mtime);
    assert!(debugfs(&part, "stat /data/one").contains(&format!("mtime: 0x{seconds:08x}")));
    // Sources, definitions, image and copy: nothing else is left.
    assert_eq!(fs::read_dir(work.dir.path()).unwrap().count(), 4);
}

#[test]
fn a_root_stays_out_of_other_partitions_and_of_the_running_system() {
    let work = Work::new(&[
        "Type=root\nFormat=ext4\nSizeMaxBytes=200M\nCopyFiles=/\nAddValidateFS=no\n\
         ExcludeFilesTarget=/data/deep/ /usr/share",
        "Type=home\nFormat=ext4\nSizeMaxBytes=200M\nCopyFiles=/home:/",
    ]);
    fs::set_permissions(work.path("root"), fs::Permissions::from_mode(0o755)).unwrap();
    chown(work.path("root"), Some(7), Some(8)).unwrap();
    let (part, _) = work.made();
    for gone in [
        "/tmp/junk",
        "/var/tmp/junk",
        "/home/junk",
        "/data/deep/er",
        "/usr/share",
    ] {
        let said = debugfs(&part, &format!("stat {gone}"));
        assert!(said.contains("File not found"), "{gone}: {said}");
    }
    for there in [
        "/tmp",
        "/home",
        "/var/tmp",
        "/data/deep",
        "/data/secret",
        "/usr",
    ] {
        let said = debugfs(&part, &format!("stat {there}"));
        assert!(said.contains("Inode:"), "{there}: {said}");
    }
    assert!(debugfs(&part, "stat /").contains("User:     7   Group:     8"));
    assert!(!debugfs(&part, "ea_list /").contains("validatefs"));
    let rows: Vec<Value> = serde_json::from_slice(&work.run(&["--empty=force"]).stdout).unwrap();
    let home = work.extract(&rows[1]);
    assert!(debugfs(&home, "cat /junk").starts_with("junk"));
}

#[test]
fn vfat_holds_files_and_directories() {
    let work = Work::new(
        &["Type=esp\nSizeMaxBytes=300M\nCopyFiles=/data:/EFI/Linux\n\
                            CopyFiles=/etc/app/app.conf:/loader/A long name.conf\nMakeDirectories=/empty"],
    );
    let (part, said) = work.made();
    tool("fsck.vfat", &["-n", &part]);
    assert!(said.contains("link is no file and no directory"), "{said}");
    assert_eq!(
        tool("mtype", &["-i", &part, "::/loader/A long name.conf"]),
        "answer = 42\n"
    );
    assert_eq!(
        tool("mtype", &["-i", &part, "::/EFI/Linux/deep/er/file"]),
        "deep"
    );
    let listing = tool("mdir", &["-i", &part, "-/", "-b", "::"]);
    assert!(
        listing.contains("::/empty/") && listing.contains("::/EFI/Linux/sparse"),
        "{listing}"
    );
    let copy = work.path("sparse");
    tool(
        "mcopy",
        &["-i", &part, "::/EFI/Linux/sparse", copy.to_str().unwrap()],
    );
    assert!(fs::read(copy).unwrap() == fs::read(work.path("root/data/sparse")).unwrap());
}

#[test]
fn btrfs_has_subvolumes() {
    let definition = "Type=root\nFormat=btrfs\nSizeMaxBytes=400M\nCopyFiles=/data:/sub/data\n\
                      Subvolumes=/sub /sub/ro:ro\nDefaultSubvolume=/sub";
    let work = Work::new(&[definition]);
    let help = Command::new("mkfs.btrfs")
        .arg("--help")
        .env("PATH", path())
        .output()
        .unwrap();
    if !String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).contains("--subvol") {
        let out = work.run(&[]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(
            !out.status.success() && said.contains("has no --subvol"),
            "{said}"
        );
        println!("skipped: neither target/dist nor the system has a mkfs.btrfs with --subvol");
        return;
    }
    let (part, _) = work.made();
    tool("btrfs", &["check", "--readonly", &part]);
    let tree = tool(
        "btrfs",
        &["inspect-internal", "dump-tree", "-t", "root", &part],
    );
    assert!(
        tree.contains("name sub") && tree.contains("name ro"),
        "{tree}"
    );
    assert!(tree.contains("flags 0x1(RDONLY)"), "{tree}");
    let default = tree.split("DIR_ITEM").nth(1).unwrap();
    assert!(default.contains("location key (256 ROOT_ITEM"), "{default}");
    let all = tool("btrfs", &["inspect-internal", "dump-tree", &part]);
    assert!(all.contains("name: user.colour") && all.contains("user.validatefs.mount_point"));
}

#[test]
fn xfs_takes_a_prototype() {
    let work = Work::new(&[
        "Type=var\nFormat=xfs\nSizeMaxBytes=400M\nCopyFiles=/data:/\nMakeDirectories=/lib/x",
    ]);
    fs::write(work.path("root/data/a b"), "spaced").unwrap();
    let found = std::env::split_paths(&path()).any(|dir| dir.join("mkfs.xfs").is_file());
    if !found {
        println!("skipped: no mkfs.xfs");
        return;
    }
    let (part, _) = work.made();
    assert!(tool("blkid", &["-p", &part]).contains("TYPE=\"xfs\""));
    if !Path::new("/usr/sbin/xfs_repair").exists() {
        println!("skipped: no xfs_repair to judge the contents");
        return;
    }
    tool("xfs_repair", &["-n", &part]);
    let listing = tool("xfs_db", &["-r", "-c", "path /", "-c", "ls", &part]);
    assert!(
        listing.contains("a b") && listing.contains("suid"),
        "{listing}"
    );
    let suid = tool(
        "xfs_db",
        &["-r", "-c", "path /suid", "-c", "print core", &part],
    );
    assert!(
        suid.contains("core.mode = 0104755") && suid.contains("core.uid = 1234"),
        "{suid}"
    );
}

#[test]
fn auto_copies_the_partitions_of_an_image() {
    let work = Work::new(&["Type=usr\nFormat=ext4\nSizeMaxBytes=200M\nCopyFiles=/data"]);
    let (part, _) = work.made();
    let defs = work.path("clone.d");
    fs::create_dir(&defs).unwrap();
    fs::write(
        defs.join("usr.conf"),
        "[Partition]\nType=usr\nCopyBlocks=auto\n",
    )
    .unwrap();
    let clone = work.path("clone.img");
    let run = |image: &Path| {
        Command::new(env!("CARGO_BIN_EXE_repart-core"))
            .args([
                "--dry-run=no",
                "--empty=create",
                "--size=auto",
                "--json=short",
                "--seed=random",
            ])
            .arg(format!("--definitions={}", defs.display()))
            .arg(format!("--image={}", image.display()))
            .arg(&clone)
            .output()
            .unwrap()
    };
    let out = run(&work.path("disk.img"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let rows: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    let (offset, mut copied) = (
        rows[0]["offset"].as_u64().unwrap(),
        fs::read(&part).unwrap(),
    );
    let original = copied.clone();
    File::open(&clone)
        .unwrap()
        .read_exact_at(&mut copied, offset)
        .unwrap();
    assert!(copied == original);
    // The UUID comes along, so that the copy is found where the original was.
    let original = Command::new(env!("CARGO_BIN_EXE_repart-core"))
        .args([
            "--json=short",
            &format!("--definitions={}", work.path("defs").display()),
        ])
        .arg(work.path("disk.img"))
        .output()
        .unwrap();
    let original: Vec<Value> = serde_json::from_slice(&original.stdout).unwrap();
    assert_eq!(rows[0]["uuid"], original[0]["uuid"]);

    fs::write(work.path("empty.img"), vec![0; 1 << 20]).unwrap();
    let out = run(&work.path("empty.img"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        !out.status.success() && said.contains("0 partitions of type usr-x86-64"),
        "{said}"
    );
}

#[test]
fn the_same_sources_give_the_same_image() {
    let definitions = [
        "Type=esp\nSizeMaxBytes=280M\nCopyFiles=/etc:/EFI",
        "Type=root\nFormat=ext4\nSizeMaxBytes=200M\nCopyFiles=/data\nMakeDirectories=/a/b",
    ];
    let work = Work::new(&definitions);
    let image = || {
        let out = Command::new(env!("CARGO_BIN_EXE_repart-core"))
            .args(["--dry-run=no", "--empty=create", "--size=600M"])
            .arg("--seed=750b6cd5c4ae4012a15e7be3c29e6a47")
            .arg(format!("--definitions={}", work.path("defs").display()))
            .arg(format!("--root={}", work.path("root").display()))
            .arg(work.path("disk.img"))
            .env("TMPDIR", work.dir.path())
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .env("PATH", path())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let bytes = fs::read(work.path("disk.img")).unwrap();
        fs::remove_file(work.path("disk.img")).unwrap();
        bytes
    };
    let first = image();
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let second = image();
    let differs = first.iter().zip(&second).position(|(a, b)| a != b);
    assert_eq!(differs, None);
}
