//! Whole packs of a made-up tree, judged by the `cpio`, `zstd` and `xz` programs.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::pack::elf::tests::module;

const KERNEL: &str = "6.12.1-test";

/// Modules of the made-up kernel: path, `.modinfo`, modules.dep line.
const MODULES: [(&str, &[u8], &str); 7] = [
    ("kernel/dm/dm-mod.ko", b"name=dm_mod\0", ""),
    (
        "kernel/dm/dm-bufio.ko",
        b"name=dm_bufio\0",
        "kernel/dm/dm-mod.ko.xz",
    ),
    (
        "kernel/dm/dm-verity.ko",
        b"name=dm_verity\0",
        "kernel/dm/dm-bufio.ko.xz kernel/dm/dm-mod.ko.xz",
    ),
    (
        "kernel/dm/dm-crypt.ko",
        b"name=dm_crypt\0",
        "kernel/dm/dm-mod.ko.xz",
    ),
    ("kernel/crypto/xts.ko", b"name=xts\0", ""),
    (
        "kernel/net/card.ko",
        b"name=card\0firmware=card/fw.bin\0firmware=card/none.bin\0",
        "",
    ),
    ("kernel/net/phy.ko", b"name=phy\0", ""),
];

fn run_tool(dir: &Path, command: &str) {
    let status = Command::new("bash")
        .args(["-euo", "pipefail", "-c", command])
        .current_dir(dir)
        .status()
        .unwrap();
    assert!(status.success(), "{command}");
}

/// A tree with compressed modules and firmware behind a symbolic link, and a dist directory with "programs".
fn scene(dir: &Path) -> Options {
    let modules = dir.join("tree/usr/lib/modules").join(KERNEL);
    let mut dep = String::new();
    for (path, info, needs) in MODULES {
        let file = modules.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, module(info)).unwrap();
        let (tool, ending) = if needs.is_empty() && path.contains("net") {
            ("zstd --rm -q", "zst")
        } else {
            ("xz", "xz")
        };
        run_tool(&modules, &format!("{tool} {path}"));
        dep.push_str(&format!("{path}.{ending}: {needs}\n"));
    }
    fs::write(modules.join("modules.dep"), dep).unwrap();
    fs::write(
        modules.join("modules.alias"),
        "alias pci:v1d2 card\nalias crypto-xts xts\nalias pci:v3* phy\n",
    )
    .unwrap();
    fs::write(modules.join("modules.softdep"), "softdep card pre: phy\n").unwrap();
    fs::write(modules.join("modules.builtin"), "kernel/nvme.ko\n").unwrap();
    let firmware = dir.join("tree/usr/lib/firmware/card");
    fs::create_dir_all(&firmware).unwrap();
    fs::write(firmware.join("fw-2.bin"), "firmware").unwrap();
    run_tool(&firmware, "xz fw-2.bin && ln -s fw-2.bin.xz fw.bin.xz");
    let dist = dir.join("dist");
    fs::create_dir_all(&dist).unwrap();
    let mut program = vec![0; 64];
    program[..6].copy_from_slice(b"\x7fELF\x02\x01");
    program[18] = 62;
    for name in ["init", "mkfs.btrfs", "mkfs.ext4"] {
        fs::write(dist.join(name), &program).unwrap();
    }
    Options {
        tree: dir.join("tree"),
        kernel: KERNEL.to_owned(),
        output: dir.join("initrd"),
        mkfs: vec!["btrfs".to_owned(), "ext4".to_owned()],
        modules: Vec::new(),
        add: Vec::new(),
        config: None,
        init: dist.join("init"),
        mkfs_dir: dist,
        level: 3,
        size_report: true,
    }
}

fn unpack(options: &Options, dir: &Path) -> std::path::PathBuf {
    let root = dir.join("unpacked");
    fs::create_dir_all(&root).unwrap();
    run_tool(
        &root,
        &format!(
            "zstd -dcq {} | cpio -i --quiet --no-absolute-filenames",
            options.output.display()
        ),
    );
    root
}

#[test]
fn two_runs_give_identical_bytes_whatever_the_clock_and_the_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = scene(dir.path());
    options.level = 19;
    pack(&options).unwrap();
    let first = fs::read(&options.output).unwrap();
    // New inodes, new times, other directory order.
    run_tool(
        dir.path(),
        "cp -r tree tree2 && mv tree old && mv tree2 tree && find tree -exec touch -h -d 2001-01-01 {} +",
    );
    pack(&options).unwrap();
    assert_eq!(first, fs::read(&options.output).unwrap());
}

#[test]
fn cpio_and_zstd_unpack_what_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = scene(dir.path());
    options.modules.push("card".to_owned());
    let extra = dir.path().join("extra");
    fs::create_dir_all(extra.join("sub")).unwrap();
    fs::write(extra.join("sub/file"), "hello").unwrap();
    std::os::unix::fs::symlink("sub/file", extra.join("link")).unwrap();
    options.add.push((extra, "/opt/extra".into()));
    let config = dir.path().join("agent.toml");
    fs::write(&config, "on-failure = \"halt\"\n").unwrap();
    options.config = Some(config);
    let report = pack(&options).unwrap();

    let root = unpack(&options, dir.path());
    let at = |path: &str| fs::read(root.join(path)).unwrap();
    for (path, info, _) in MODULES {
        assert_eq!(
            at(&format!("usr/lib/modules/{KERNEL}/{path}")),
            module(info),
            "{path}"
        );
    }
    assert_eq!(at("lib/firmware/card/fw.bin"), b"firmware");
    assert_eq!(at("opt/extra/link"), b"hello");
    assert_eq!(
        at("etc/initrd-agent/agent.toml"),
        b"on-failure = \"halt\"\n"
    );
    assert_eq!(at("init"), fs::read(&options.init).unwrap());
    assert!(root.join("dev").is_dir() && root.join("etc/initrd-release").is_file());
    let dep = String::from_utf8(at(&format!("usr/lib/modules/{KERNEL}/modules.dep"))).unwrap();
    assert!(
        dep.contains("kernel/dm/dm-verity.ko: kernel/dm/dm-bufio.ko kernel/dm/dm-mod.ko\n"),
        "{dep}"
    );
    assert_eq!(
        report.no_firmware,
        [("card".to_owned(), "card/none.bin".to_owned())]
    );
    assert!(report.builtin.contains(&"nvme"));
    assert_eq!(report.modules, MODULES.len());
    run_tool(
        dir.path(),
        "zstd -dcq initrd | cpio -tv --quiet --numeric-uid-gid | awk '$3 != 0 || $4 != 0 { exit 1 }'",
    );
}

#[test]
fn unasked_modules_stay_out() {
    let dir = tempfile::tempdir().unwrap();
    let options = scene(dir.path());
    pack(&options).unwrap();
    let root = unpack(&options, dir.path());
    assert!(
        !root
            .join(format!("usr/lib/modules/{KERNEL}/kernel/net"))
            .exists()
    );
    let alias =
        fs::read_to_string(root.join(format!("usr/lib/modules/{KERNEL}/modules.alias"))).unwrap();
    assert_eq!(alias, "alias crypto-xts xts\n");
}

#[test]
fn firmware_outside_the_tree_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = scene(dir.path());
    options.modules.push("card".to_owned());
    fs::write(dir.path().join("host.bin"), "host").unwrap();
    run_tool(
        dir.path(),
        "ln -s ../../../../../../host.bin tree/usr/lib/firmware/card/none.bin",
    );
    assert_eq!(pack(&options).unwrap().no_firmware.len(), 1);
}

/// Breaks the scene in one way and answers the error; the output of the run before must survive it.
fn broken(spoil: impl Fn(&Path, &mut Options)) -> PackError {
    let dir = tempfile::tempdir().unwrap();
    let mut options = scene(dir.path());
    fs::write(&options.output, "old").unwrap();
    spoil(dir.path(), &mut options);
    let error = pack(&options).unwrap_err();
    assert_eq!(fs::read(dir.path().join("initrd")).unwrap(), b"old");
    error
}

#[test]
fn each_failure_names_the_file_and_the_next_step() {
    let index = format!("tree/usr/lib/modules/{KERNEL}");
    type Spoil<'a> = Box<dyn Fn(&Path, &mut Options) + 'a>;
    let cases: Vec<(Spoil<'_>, Vec<&str>)> = vec![
        (
            Box::new(|dir, _| fs::remove_file(dir.join(&index).join("modules.dep")).unwrap()),
            vec!["modules.dep", "depmod -b", KERNEL],
        ),
        (
            Box::new(|_, options| options.kernel = "7.0".to_owned()),
            vec!["7.0", KERNEL],
        ),
        (
            Box::new(|_, options| options.modules.push("zfs".to_owned())),
            vec!["zfs", "--module"],
        ),
        (
            Box::new(|_, options| options.mkfs.push("xfs".to_owned())),
            vec!["mkfs.xfs", "cargo xtask build"],
        ),
        (
            Box::new(|dir, _| fs::write(dir.join("dist/init"), "#!/bin/sh").unwrap()),
            vec!["dist/init", "not a static"],
        ),
        (
            Box::new(|dir, _| {
                fs::remove_file(dir.join(&index).join("kernel/dm/dm-crypt.ko.xz")).unwrap()
            }),
            vec!["dm-crypt.ko.xz", "reinstall"],
        ),
        (
            Box::new(|dir, _| {
                fs::write(dir.join(&index).join("kernel/dm/dm-crypt.ko.xz"), "x").unwrap()
            }),
            vec!["dm-crypt.ko.xz", "decompress"],
        ),
        (
            Box::new(|dir, options| {
                fs::write(dir.join("agent.toml"), "frob = 1\n").unwrap();
                options.config = Some(dir.join("agent.toml"));
            }),
            vec!["agent.toml", "frob"],
        ),
        (
            Box::new(|dir, options| options.add.push((dir.join("dist/init"), "/init".into()))),
            vec!["/init", "twice", "--add"],
        ),
        (
            Box::new(|_, options| options.add.push(("/dev/null".into(), "/null".into()))),
            vec!["/dev/null"],
        ),
        (
            Box::new(|dir, options| options.add.push((dir.join("gone"), "/gone".into()))),
            vec!["gone", "--add"],
        ),
    ];
    for (spoil, words) in cases {
        let error = broken(spoil).to_string();
        for word in words {
            assert!(error.contains(word), "`{word}` not in: {error}");
        }
    }
}

#[test]
fn an_unwritable_output_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = scene(dir.path());
    options.output = dir.path().join("no/such/dir/initrd");
    let error = pack(&options).unwrap_err();
    assert!(
        matches!(&error, PackError::Write { path, .. } if path.ends_with("dir/initrd")),
        "{error}"
    );
}
