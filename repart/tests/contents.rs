//! What ends up inside new partitions, judged by other people's tools; and that nothing is written when it cannot be made.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use common::journal::{Event, MemoryDisk};
use repart::{
    ApplyError, Contents, ContentsError, Definitions, DirFiles, Disk, EmptyMode, Guid, LoadContext,
    Plan, PlannedPartition, Policy, apply, observe, plan,
};
use serde_json::Value;

fn write_definitions(dir: &Path, texts: &[&str]) {
    fs::create_dir(dir).unwrap();
    for (at, text) in texts.iter().enumerate() {
        fs::write(
            dir.join(format!("{at:02}.conf")),
            format!("[Partition]\n{text}\n"),
        )
        .unwrap();
    }
}

fn tool(program: &str, arguments: &[&str]) -> (bool, String) {
    let out = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    (
        out.status.success(),
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr),
    )
}

/// Runs the binary on a fresh image; answers its rows.
fn repart(work: &Path, image: &Path, extra: &[&str]) -> Vec<Value> {
    let out = Command::new(env!("CARGO_BIN_EXE_repart-core"))
        .args([
            "--dry-run=no",
            "--empty=create",
            "--size=2G",
            "--json=short",
            "--seed=750b6cd5c4ae4012a15e7be3c29e6a47",
        ])
        .arg(format!("--definitions={}", work.join("defs").display()))
        .args(extra)
        .arg(image)
        .env("TMPDIR", work)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Copies a partition out of the image so that tools without offsets can look at it.
fn extract(image: &Path, row: &Value, to: &Path) {
    let number = |key: &str| row[key].as_u64().unwrap();
    let (source, target) = (File::open(image).unwrap(), File::create(to).unwrap());
    target.set_len(number("raw_size")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < number("raw_size") {
        let step = usize::try_from(number("raw_size") - at)
            .unwrap()
            .min(buffer.len());
        source
            .read_exact_at(&mut buffer[..step], number("offset") + at)
            .unwrap();
        if buffer[..step].iter().any(|byte| *byte != 0) {
            target.write_all_at(&buffer[..step], at).unwrap();
        }
        at += step as u64;
    }
}

#[test]
fn file_systems_are_whole() {
    let work = tempfile::tempdir_in("/var/tmp").unwrap();
    let max = "SizeMaxBytes=300M";
    let texts = [
        format!("Type=root\nFormat=btrfs\n{max}"),
        format!("Type=var\nFormat=ext4\n{max}"),
        format!("Type=esp\nFormat=vfat\n{max}"),
        "Type=swap\nSizeMaxBytes=64M".to_owned(),
        "Type=usr\nFormat=empty\nSizeMaxBytes=64M".to_owned(),
    ];
    write_definitions(
        &work.path().join("defs"),
        &texts.each_ref().map(String::as_str),
    );
    let image = work.path().join("disk.img");
    let rows = repart(work.path(), &image, &[]);
    assert_eq!(rows.len(), 5);
    for row in &rows {
        let part = work.path().join("part");
        extract(&image, row, &part);
        let part = part.to_str().unwrap();
        let (_, said) = tool("/usr/sbin/blkid", &["-p", part]);
        let uuid = Guid::parse(row["uuid"].as_str().unwrap())
            .unwrap()
            .derive(b"file-system-uuid")
            .to_string();
        match row["type"].as_str().unwrap() {
            "root-x86-64" => {
                assert!(
                    said.contains("TYPE=\"btrfs\"") && said.contains(&format!(" UUID=\"{uuid}\"")),
                    "{said}"
                );
                let (clean, said) = tool("/usr/bin/btrfs", &["check", "--readonly", part]);
                assert!(clean, "{said}");
            }
            "var" => {
                assert!(
                    said.contains("TYPE=\"ext4\"") && said.contains(&format!(" UUID=\"{uuid}\"")),
                    "{said}"
                );
                let (clean, said) = tool("/usr/sbin/e2fsck", &["-fn", part]);
                assert!(clean, "{said}");
            }
            "esp" => assert!(
                said.contains("TYPE=\"vfat\"") && said.contains("LABEL=\"ESP\""),
                "{said}"
            ),
            "swap" => assert!(
                said.contains("TYPE=\"swap\"") && said.contains(&format!(" UUID=\"{uuid}\"")),
                "{said}"
            ),
            "usr-x86-64" => assert!(said.is_empty() && row["label"] == "_empty", "{said}"),
            other => panic!("{other}"),
        }
    }
    // Nothing but the image, the copy and the definitions is left.
    assert_eq!(fs::read_dir(work.path()).unwrap().count(), 3);
}

#[test]
fn blocks_are_copied() {
    let work = tempfile::tempdir_in("/var/tmp").unwrap();
    write_definitions(
        &work.path().join("defs"),
        &["Type=usr\nCopyBlocks=/blob", "Type=root"],
    );
    let blob: Vec<u8> = (0..3_u32 * 512 * 700).map(|at| (at % 251) as u8).collect();
    fs::write(work.path().join("blob"), &blob).unwrap();
    let image = work.path().join("disk.img");
    let rows = repart(
        work.path(),
        &image,
        &[&format!("--root={}", work.path().display())],
    );
    let mut copied = vec![0; blob.len()];
    File::open(&image)
        .unwrap()
        .read_exact_at(&mut copied, rows[0]["offset"].as_u64().unwrap())
        .unwrap();
    assert!(copied == blob);
}

/// Fails where it is told to.
struct Failing {
    prepare: bool,
    make: bool,
}

impl Contents for Failing {
    fn prepare(&mut self, _: &PlannedPartition) -> Result<(), ContentsError> {
        if self.prepare {
            Err("no mkfs.ext4".into())
        } else {
            Ok(())
        }
    }

    fn make(
        &mut self,
        disk: &mut dyn Disk,
        partition: &PlannedPartition,
    ) -> Result<(), ContentsError> {
        disk.write_at(partition.offset, &[1; 512])?;
        if self.make {
            Err("mkfs.ext4 failed".into())
        } else {
            Ok(())
        }
    }

    fn published(&mut self, _: &Plan) -> Result<(), ContentsError> {
        Err("the kernel says no".into())
    }
}

#[test]
fn the_table_is_written_only_when_all_contents_are_made() {
    let work = tempfile::tempdir().unwrap();
    write_definitions(&work.path().join("defs"), &["Type=root"]);
    let definitions = Definitions::load(
        &DirFiles,
        &[work.path().join("defs")],
        &LoadContext::default(),
    )
    .unwrap();
    let policy = Policy {
        empty: EmptyMode::Allow,
        ..Policy::new(Guid::from_bytes([1; 16]), Guid::from_bytes([2; 16]))
    };
    let mut disk = MemoryDisk::new(64 << 20, 512);
    let plan = plan(&observe(&disk).unwrap(), &definitions, &policy).unwrap();

    let error = apply(
        &plan,
        &mut disk,
        &mut Failing {
            prepare: true,
            make: false,
        },
    )
    .unwrap_err();
    assert!(
        matches!(error, ApplyError::Prepare { number: 1, .. }),
        "{error}"
    );
    assert!(disk.events.is_empty(), "nothing is written");

    let error = apply(
        &plan,
        &mut disk,
        &mut Failing {
            prepare: false,
            make: true,
        },
    )
    .unwrap_err();
    assert!(
        matches!(error, ApplyError::Make { number: 1, .. }),
        "{error}"
    );
    let inside = |event: &Event| !matches!(event, Event::Write { offset, .. } if *offset < 1 << 20);
    assert!(
        disk.events.iter().all(inside),
        "no write outside of the new partition"
    );

    let error = apply(
        &plan,
        &mut disk,
        &mut Failing {
            prepare: false,
            make: false,
        },
    )
    .unwrap_err();
    assert!(matches!(error, ApplyError::Publish(_)), "{error}");
    assert!(common::image::Table::read(&disk, 512).is_some());
}

#[test]
fn a_plan_for_another_disk_is_refused() {
    let policy = Policy {
        empty: EmptyMode::Allow,
        ..Policy::new(Guid::from_bytes([1; 16]), Guid::from_bytes([2; 16]))
    };
    let disk = MemoryDisk::new(64 << 20, 512);
    let plan = plan(&observe(&disk).unwrap(), &Definitions::default(), &policy).unwrap();
    let mut other = MemoryDisk::new(65 << 20, 512);
    let error = apply(&plan, &mut other, &mut repart::NoContents).unwrap_err();
    assert!(matches!(error, ApplyError::Check(_)), "{error}");
    assert!(other.events.is_empty());
}

#[test]
fn a_reset_that_does_not_fit_changes_nothing() {
    let work = tempfile::tempdir_in("/var/tmp").unwrap();
    write_definitions(&work.path().join("defs"), &["Type=home\nFactoryReset=yes"]);
    let image = work.path().join("disk.img");
    repart(work.path(), &image, &[]);
    fs::write(
        work.path().join("defs/01.conf"),
        "[Partition]\nType=srv\nSizeMinBytes=1T\n",
    )
    .unwrap();
    for (rules, left) in [("own", 1), ("systemd", 0)] {
        let out = Command::new(env!("CARGO_BIN_EXE_repart-core"))
            .args([
                "--dry-run=no",
                "--factory-reset=yes",
                "--seed=random",
                &format!("--rules={rules}"),
            ])
            .arg(format!(
                "--definitions={}",
                work.path().join("defs").display()
            ))
            .arg(&image)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1));
        let table = common::image::Table::read(&File::open(&image).unwrap(), 512).unwrap();
        assert_eq!(table.parts.len(), left, "{rules}");
    }
}

#[test]
fn build_only_keys_are_named() {
    let work = tempfile::tempdir().unwrap();
    write_definitions(
        &work.path().join("defs"),
        &["Type=root\nFormat=ext4\nMinimize=best"],
    );
    let definitions = Definitions::load(
        &DirFiles,
        &[work.path().join("defs")],
        &LoadContext::default(),
    )
    .unwrap();
    let policy = Policy {
        empty: EmptyMode::Allow,
        ..Policy::new(Guid::from_bytes([1; 16]), Guid::from_bytes([2; 16]))
    };
    let error = plan(
        &observe(&MemoryDisk::new(1 << 30, 512)).unwrap(),
        &definitions,
        &policy,
    )
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("Minimize=best is for building images"),
        "{error}"
    );
}

#[test]
fn options_we_do_not_have_are_named() {
    for (option, reason) in [
        ("--split=yes", "--split is not supported"),
        ("--make-ddi=sysext", "build step"),
        ("--frobnicate", "unknown option"),
    ] {
        let (done, said) = tool(env!("CARGO_BIN_EXE_repart-core"), &[option, "/nonexistent"]);
        assert!(
            !done && said.contains(reason) && said.lines().count() == 1,
            "{said}"
        );
    }
    // A mere directory is no root: the disk it lies on is that of another system.
    let root = tempfile::tempdir().unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_repart-core"))
        .arg(format!("--root={}", root.path().display()))
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(76));
}
