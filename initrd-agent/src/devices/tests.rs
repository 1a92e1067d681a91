//! Modules, coldplug and disks against directories laid out as the kernel and depmod lay them out.
#![expect(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::alias::{AliasIndex, matches};
use super::modules::{Load, LoadError, Modules};
use super::{Devices, DevicesError, disks};

const RELEASE: &str = "6.12.1-test";

/// Lines as depmod writes them for a Debian kernel.
const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias virtio:d00000002v* virtio_blk
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias pci:v00001B4Bd00009123sv*sd*bc01sc06i01* ahci
alias pci:v00008086d*sv00001028sd*bc01sc04i00* ahci
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias pci:v*d*sv*sd*bc01sc08i02* nvme
alias usb:v13FDp3940d0[0-2]*dc*dsc*dp*ic*isc*ip*in* uas
alias usb:v13FDp3940d0[0-2]*dc*dsc*dp*ic*isc*ip*in* usb_storage
alias cpu:type:x86,ven*fam*mod*:feature:*0099* aesni_intel
alias scsi:t-0x00* sd_mod
alias fs-erofs erofs
alias crypto-crc32c crc32c_generic
alias acpi*:MSFT0101:* tpm_crb
";

const DEP: &str = "\
kernel/drivers/md/dm-mod.ko:
kernel/drivers/md/dm-crypt.ko.xz: kernel/drivers/md/dm-mod.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko:
kernel/fs/btrfs/btrfs.ko: kernel/lib/libcrc32c.ko kernel/crypto/xor.ko
kernel/lib/libcrc32c.ko:
kernel/crypto/xor.ko:
kernel/crypto/crc32c_generic.ko:
kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko kernel/lib/nowhere.ko
kernel/drivers/ata/ahci.ko:
kernel/usb/uhci-hcd.ko:
kernel/usb/ehci-pci.ko:
";

const SOFTDEP: &str = "\
# Soft dependencies extracted from modules themselves.
softdep btrfs pre: blake2b-256
softdep btrfs pre: crypto-crc32c
softdep libcrc32c pre: crypto-crc32c post: xor
softdep uhci_hcd pre: ehci_pci
softdep ehci_pci pre: uhci_hcd
";

/// A root with the indexes above, and a file of nonsense for every module that modules.dep lists.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("usr/lib/modules").join(RELEASE);
    let files = DEP
        .lines()
        .map(|line| (line.split(':').next().unwrap(), "no module"));
    let indexes = [
        ("modules.dep", DEP),
        ("modules.alias", ALIAS),
        ("modules.softdep", SOFTDEP),
        (
            "modules.builtin",
            "kernel/fs/ext4/ext4.ko\nkernel/drivers/char/tpm/tpm.ko\n",
        ),
        (
            "modules.builtin.modinfo",
            "ext4.license=GPL\0ext4.alias=fs-ext2\0",
        ),
    ];
    for (path, text) in indexes.into_iter().chain(files) {
        put(&dir.join(path), text);
    }
    root
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn names(order: &[PathBuf]) -> Vec<&str> {
    order
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap())
        .collect()
}

#[test]
fn devices_find_their_modules() {
    let index = AliasIndex::new(ALIAS.to_owned());
    assert_eq!(index.len(), 13);
    for (device, modules) in [
        ("virtio:d00000002v00001AF4", &["virtio_blk"][..]),
        ("virtio:d00000003v00001AF4", &[]),
        (
            "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00",
            &["virtio_pci"],
        ),
        (
            "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
            &["ahci"],
        ),
        (
            "pci:v00008086d00002922sv00001028sd00000001bc01sc04i00",
            &["ahci"],
        ),
        // Two patterns of one module: once.
        (
            "pci:v00001B4Bd00009123sv00000000sd00000000bc01sc06i01",
            &["ahci"],
        ),
        // Two modules for one device: both, in order.
        (
            "usb:v13FDp3940d0209dc00dsc00dp00ic08isc06ip50in00",
            &["uas", "usb_storage"],
        ),
        ("usb:v13FDp3940d0309dc00dsc00dp00ic08isc06ip50in00", &[]),
        (
            "cpu:type:x86,ven0002fam0019mod0001:feature:,0000,0019,0099,00C0",
            &["aesni_intel"],
        ),
        ("scsi:t-0x00", &["sd_mod"]),
        ("scsi:t-0x05", &[]),
        ("fs-erofs", &["erofs"]),
        ("fs_erofs", &["erofs"]),
        ("acpi:MSFT0101:", &["tpm_crb"]),
        ("acpi:PNP0C0A:", &[]),
        ("", &[]),
    ] {
        assert_eq!(index.lookup(device), modules, "{device}");
    }
}

#[test]
fn patterns_match_as_fnmatch_does() {
    for (pattern, text, expected) in [
        ("", "", true),
        ("*", "", true),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-b-b-", false),
        ("*ab", "aab", true),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("x[0-9A-F]y", "xBy", true),
        ("x[0-9A-F]y", "xGy", false),
        ("x[!0-9]y", "x5y", false),
        ("x[!0-9]y", "xay", true),
        ("x[]]y", "x]y", true),
        ("x[ab-]y", "x-y", true),
        ("x[y", "x[y", true),
        ("a-b", "a_b", true),
        ("abc", "ab", false),
        ("ab", "abc", false),
    ] {
        assert_eq!(
            matches(pattern.as_bytes(), text.as_bytes()),
            expected,
            "{pattern} {text}"
        );
    }
}

#[test]
fn what_a_module_needs_comes_first() {
    let root = root();
    let modules = Modules::open(root.path(), RELEASE).unwrap();
    assert_eq!(
        names(&modules.order("virtio-blk")),
        ["virtio.ko", "virtio_ring.ko", "virtio_blk.ko"]
    );
    assert_eq!(
        names(&modules.order("dm_crypt")),
        ["dm-mod.ko", "dm-crypt.ko.xz"]
    );
    // The soft dependencies of what is needed count too; one that is not there does not matter.
    assert_eq!(
        names(&modules.order("btrfs")),
        ["crc32c_generic.ko", "xor.ko", "libcrc32c.ko", "btrfs.ko"]
    );
    assert_eq!(names(&modules.order("fs-erofs")).last(), Some(&"erofs.ko"));
    assert_eq!(modules.order("ext4"), Vec::<PathBuf>::new());
}

#[test]
fn soft_dependencies_can_be_left_out() {
    let root = root();
    let mut modules = Modules::open(root.path(), RELEASE).unwrap();
    modules.leave_out(&["crypto-crc32c"]);
    assert_eq!(
        names(&modules.order("btrfs")),
        ["xor.ko", "libcrc32c.ko", "btrfs.ko"]
    );
}

#[test]
fn soft_dependencies_in_a_circle_end() {
    let root = root();
    let modules = Modules::open(root.path(), RELEASE).unwrap();
    assert_eq!(
        names(&modules.order("uhci_hcd")),
        ["ehci-pci.ko", "uhci-hcd.ko"]
    );
}

#[test]
fn built_in_and_missing_are_no_errors() {
    let root = root();
    let mut modules = Modules::open(root.path(), RELEASE).unwrap();
    assert_eq!(modules.load("tpm").unwrap(), Load::Present);
    assert_eq!(modules.load("fs-ext2").unwrap(), Load::Present);
    assert_eq!(modules.load("zfs").unwrap(), Load::Missing);
    assert!(
        modules
            .load_alias("pci:v00000000d00000000sv00000000sd00000000bc00sc00i00")
            .is_empty()
    );
    // modules.alias names it, the initrd does not have it.
    assert!(matches!(
        modules.load_alias("scsi:t-0x00")[..],
        [Ok(Load::Missing)]
    ));
}

#[test]
fn a_module_the_kernel_refuses_is_named_and_tried_again() {
    let root = root();
    let mut modules = Modules::open(root.path(), RELEASE).unwrap();
    for _ in 0..2 {
        let error = modules.load("dm-crypt").unwrap_err();
        // Its dependency comes first and fails.
        assert!(
            matches!(&error, LoadError::Refused { path, .. } if path.ends_with("dm-mod.ko")),
            "{error}"
        );
    }
    let error = modules.load("erofs").unwrap_err();
    assert!(
        matches!(&error, LoadError::Dependency { needed, .. } if needed == "nowhere"),
        "{error}"
    );
    fs::remove_file(
        root.path()
            .join("usr/lib/modules")
            .join(RELEASE)
            .join("kernel/drivers/ata/ahci.ko"),
    )
    .unwrap();
    assert!(matches!(modules.load("ahci"), Err(LoadError::Open { .. })));
}

#[test]
fn the_command_line_forbids_modules_and_what_needs_them() {
    let root = root();
    let mut modules = Modules::open(root.path(), RELEASE).unwrap();
    modules.set_command_line(
        "ro quiet modprobe.blacklist=ahci,dm-mod virtio-blk.queue_depth=8 virtio_blk.poll=1",
    );
    assert_eq!(modules.load("ahci").unwrap(), Load::Forbidden);
    let error = modules.load("dm-crypt").unwrap_err();
    assert!(
        matches!(
            &error,
            LoadError::Dependency {
                outcome: "forbidden",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(modules.parameters("virtio_blk"), "queue_depth=8 poll=1");
    assert_eq!(modules.parameters("modprobe"), "");
}

#[test]
fn an_initrd_for_another_kernel_is_refused_and_one_without_modules_is_fine() {
    let root = root();
    let error = Modules::open(root.path(), "6.12.2-test").unwrap_err();
    assert!(
        matches!(&error, DevicesError::OtherKernel { found, .. } if found[..] == [RELEASE.to_owned()]),
        "{error}"
    );
    let empty = tempfile::tempdir().unwrap();
    let mut modules = Modules::open(empty.path(), RELEASE).unwrap();
    assert_eq!(modules.load("virtio_blk").unwrap(), Load::Missing);
}

#[test]
fn each_device_there_is_asks_once() {
    let root = root();
    for (device, modalias) in [
        (
            "sys/bus/virtio/devices/virtio0",
            "virtio:d00000002v00001AF4\n",
        ),
        (
            "sys/bus/virtio/devices/virtio1",
            "virtio:d00000002v00001AF4\n",
        ),
        (
            "sys/bus/pci/devices/0000:00:1f.2",
            "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01\n",
        ),
        (
            "sys/devices/system/cpu",
            "cpu:type:x86,ven0000fam0006mod0006:feature:,0000\n",
        ),
    ] {
        put(&root.path().join(device).join("modalias"), modalias);
    }
    fs::create_dir_all(root.path().join("sys/bus/cpu/devices/cpu0")).unwrap();
    let mut devices =
        Devices::start(root.path(), Modules::open(root.path(), RELEASE).unwrap()).unwrap();
    assert_eq!(devices.failures().len(), 1, "SATA waits");
    assert!(!devices.bring_up_all());
    // The kernel refuses the nonsense; that both were tried, once, is what shows.
    let failed: Vec<String> = devices.failures().iter().map(ToString::to_string).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(
        failed[0].contains("virtio.ko") && failed[1].contains("ahci.ko"),
        "{failed:?}"
    );
    assert_eq!(devices.loaded(), 0);
}

#[test]
fn waiting_is_driven_by_the_kernels_events() {
    let root = tempfile::tempdir().unwrap();
    let mut devices = Devices::start(root.path(), Modules::default()).unwrap();
    let flag = root.path().join("there");
    let waker = std::thread::spawn({
        let flag = flag.clone();
        move || {
            std::thread::sleep(Duration::from_millis(100));
            fs::write(flag, "").unwrap();
            fs::write("/sys/class/mem/null/uevent", "change").unwrap();
        }
    });
    let start = Instant::now();
    let deadline = start + Duration::from_secs(30);
    let mut asked = 0;
    devices
        .wait_for("a flag", deadline, |_| {
            asked += 1;
            flag.exists().then_some(())
        })
        .unwrap();
    waker.join().unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "not woken by the event"
    );
    assert!(
        (2..50).contains(&asked),
        "asked {asked} times: that is polling"
    );
}

#[test]
fn the_deadline_tells_what_is_there_instead() {
    let root = tempfile::tempdir().unwrap();
    fake_disk(
        root.path(),
        "vda",
        "254:0",
        2048 * 64,
        &[("device/model", "QEMU HARDDISK\n"), ("serial", "S1\n")],
    );
    let mut devices = Devices::start(root.path(), Modules::default()).unwrap();
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = devices
        .wait_for("the boot disk", deadline, |_| None::<()>)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the boot disk") && error.contains("/dev/vda (64 MiB, QEMU HARDDISK, S1)"),
        "{error}"
    );
    let nothing = tempfile::tempdir().unwrap();
    assert_eq!(disks::describe(nothing.path()), "no disk at all");
}

/// What /sys shows of a disk.
fn fake_disk(root: &Path, name: &str, devnum: &str, sectors: u64, more: &[(&str, &str)]) {
    let dir = root.join("sys/class/block").join(name);
    put(&dir.join("dev"), &format!("{devnum}\n"));
    put(&dir.join("size"), &format!("{sectors}\n"));
    put(&dir.join("ro"), "0\n");
    for (path, text) in more {
        put(&dir.join(path), text);
    }
}

#[test]
fn only_whole_disks_with_something_on_them_are_listed() {
    let root = tempfile::tempdir().unwrap();
    let top = root.path();
    fake_disk(
        top,
        "vda",
        "254:0",
        4096,
        &[("queue/logical_block_size", "4096\n"), ("diskseq", "9\n")],
    );
    fake_disk(top, "nvme0n1", "259:0", 4096, &[]);
    fake_disk(top, "nvme0c0n1", "259:7", 4096, &[("hidden", "1\n")]);
    fake_disk(top, "sr0", "11:0", 0, &[]);
    fake_disk(top, "mmcblk0", "179:0", 4096, &[]);
    fake_disk(top, "mmcblk0boot0", "179:8", 4096, &[]);
    fake_disk(top, "cciss!c0d0", "104:0", 4096, &[]);
    fake_disk(top, "vda1", "254:1", 2048, &[("partition", "1\n")]);
    for (name, number) in [
        ("loop0", "7:0"),
        ("ram0", "1:0"),
        ("dm-0", "252:0"),
        ("zram0", "251:0"),
        ("fd0", "2:0"),
    ] {
        fake_disk(top, name, number, 4096, &[]);
    }
    let list = disks::list(top).unwrap();
    let found: Vec<&str> = list.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(found, ["cciss!c0d0", "mmcblk0", "nvme0n1", "vda"]);
    assert_eq!(list[0].node, top.join("dev/cciss/c0d0"));
    let vda = &list[3];
    assert_eq!(
        (vda.devnum, vda.size, vda.sector_size, vda.sequence),
        ((254, 0), 4096 * 512, 4096, 9)
    );
}

#[test]
fn partitions_are_found_by_number() {
    let root = tempfile::tempdir().unwrap();
    let top = root.path();
    let three = |name: &str| {
        let file = |file: &str| format!("{name}/{file}");
        [
            (file("partition"), "3\n"),
            (file("dev"), "254:3\n"),
            (file("start"), "2048\n"),
            (file("size"), "8\n"),
        ]
    };
    for (disk, partition) in [("vda", "vda3"), ("nvme0n1", "nvme0n1p3")] {
        let more = three(partition);
        let more: Vec<(&str, &str)> = more
            .iter()
            .map(|(path, text)| (path.as_str(), *text))
            .collect();
        fake_disk(top, disk, "254:0", 4096, &more);
        let disk = disks::disk(top, disk).unwrap();
        let found = disk.partition(3).unwrap();
        assert_eq!(found.node, top.join("dev").join(partition));
        assert_eq!(
            (found.devnum, found.offset, found.size),
            ((254, 3), 1 << 20, 4096)
        );
        assert!(!found.is_ready(), "there is no node");
        assert_eq!(disk.partition(2), None);
    }
}

/// A loop device under another name: loop devices themselves are never taken for disks.
#[test]
fn a_node_is_believed_only_if_it_is_the_device_the_kernel_names() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let out = Command::new("losetup")
        .args(["-f", "--show"])
        .arg(image.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let node = PathBuf::from(String::from_utf8(out.stdout).unwrap().trim());
    let rdev = fs::metadata(&node).unwrap().rdev();
    let devnum = format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let sequence = sys::block::disk_sequence(fs::File::open(&node).unwrap().as_fd()).unwrap();

    let open = |devnum: &str, sequence: u64, target: &Path| {
        let root = tempfile::tempdir().unwrap();
        fake_disk(
            root.path(),
            "vdz",
            devnum,
            2048,
            &[("diskseq", &format!("{sequence}\n"))],
        );
        fs::create_dir(root.path().join("dev")).unwrap();
        symlink(target, root.path().join("dev/vdz")).unwrap();
        disks::disk(root.path(), "vdz").unwrap().open(true)
    };
    let results = [
        open(&devnum, sequence, &node),
        open(&devnum, sequence + 1, &node),
        open("254:77", sequence, &node),
        open("1:3", 0, Path::new("/dev/null")),
        open(&devnum, sequence, Path::new("/dev/nowhere")),
    ];
    assert!(
        Command::new("losetup")
            .arg("-d")
            .arg(&node)
            .status()
            .unwrap()
            .success()
    );
    let other =
        |r: &Result<fs::File, DevicesError>| matches!(r, Err(DevicesError::OtherDevice { .. }));
    assert!(results[0].is_ok(), "{results:?}");
    assert!(
        results[1..4].iter().all(other),
        "another disk, another number, no disk: {results:?}"
    );
    assert!(matches!(results[4], Err(DevicesError::Open { .. })));
}
