//! What the kernel knows of a disk after a run, on a loop device: nodes come, grow in number and stay, one by one.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Loop(PathBuf);

impl Loop {
    /// `None` where there are no loop devices.
    fn new(image: &Path) -> Option<Self> {
        let out = Command::new("/usr/sbin/losetup")
            .args(["--find", "--show", "--partscan"])
            .arg(image)
            .output()
            .ok()?;
        let node = String::from_utf8(out.stdout).unwrap();
        out.status.success().then(|| Self(node.trim().into()))
    }

    /// Number, start and size of each partition, in 512 bytes.
    fn partitions(&self) -> BTreeMap<String, (String, String)> {
        let sysfs = Path::new("/sys/block").join(self.0.file_name().unwrap());
        let read = |path: PathBuf| fs::read_to_string(path).unwrap().trim().to_owned();
        fs::read_dir(sysfs)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("partition").exists())
            .map(|path| {
                (
                    read(path.join("partition")),
                    (read(path.join("start")), read(path.join("size"))),
                )
            })
            .collect()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let gone = Command::new("/usr/sbin/losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
        assert!(gone.unwrap().success());
    }
}

#[test]
fn the_kernel_is_told_partition_by_partition() {
    let work = tempfile::tempdir_in("/var/tmp").unwrap();
    let image = work.path().join("disk.img");
    let file = fs::File::create(&image).unwrap();
    file.set_len(256 << 20).unwrap();
    let Some(device) = Loop::new(&image) else {
        println!("skipped: no loop devices, or not root");
        return;
    };
    let define = |name: &str, text: &str| {
        fs::write(
            work.path().join(name),
            format!("[Partition]\nSizeMaxBytes=48M\n{text}\n"),
        )
        .unwrap();
    };
    let run = |extra: &str| {
        let out = Command::new(env!("CARGO_BIN_EXE_repart-core"))
            .args(["--dry-run=no", "--empty=allow", "--seed=random", extra])
            .arg(format!("--definitions={}", work.path().display()))
            .arg(&device.0)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        device.partitions()
    };
    define("10.conf", "Type=root\nFormat=ext4");
    define("20.conf", "Type=swap\nFactoryReset=yes");
    let first = run("--rules=systemd");
    assert_eq!(first.len(), 2);
    assert_eq!(first["1"], ("2048".to_owned(), "98304".to_owned()));
    let node = format!("{}p1", device.0.display());
    let said = Command::new("/usr/sbin/blkid")
        .args(["-p", &node])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("TYPE=\"ext4\""));

    // The first is in use all the while: a re-read of the table would be refused, or take it away.
    let held = fs::File::open(&node).unwrap();
    define("20.conf", "Type=swap\nFactoryReset=yes\nPaddingMinBytes=8M");
    define("30.conf", "Type=home");
    let second = run("--rules=systemd");
    assert_eq!(second.len(), 3);
    assert_eq!((&second["1"], &second["2"]), (&first["1"], &first["2"]));
    let reset = run("--factory-reset=yes");
    assert_eq!(reset["1"], first["1"]);
    assert_eq!(reset["3"], second["3"]);
    assert_eq!(reset.len(), 3);
    assert!(sys::block::size(held.as_fd()).unwrap() == 48 << 20);

    // A grown last partition: the node grows with it.
    fs::write(
        work.path().join("30.conf"),
        "[Partition]\nType=home\nSizeMinBytes=80M\nSizeMaxBytes=80M\n",
    )
    .unwrap();
    let grown = run("--rules=systemd");
    assert_eq!(grown["3"].1, ((80 << 20) / 512).to_string());
    assert_eq!(grown["3"].0, second["3"].0);
}
