//! Installations onto image files, judged by sfdisk, mtools and fsck.vfat.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod fixture;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use repart::{BlockDevice, Disk, Guid};

use super::choose::choose;
use super::contents::Target;
use super::progress::Progress;
use super::source::Source;
use super::{InstallError, carry_out, run, sets};
use fixture::*;

struct File;

impl Target for File {
    fn forget(&self) -> io::Result<()> {
        Ok(())
    }

    fn announce(&self, _: u32, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn install(lab: &Lab, target: &Path, more: &[&str]) -> Result<String, InstallError> {
    let mut args = vec![target.as_os_str().to_owned()];
    args.push("--source".into());
    args.push(lab.path("source").into());
    args.extend(more.iter().map(OsString::from));
    let mut out = Vec::new();
    run(&args, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// The same, onto a disk of the test's own making.
fn install_onto(lab: &Lab, disk: &mut impl Disk) -> Result<bool, InstallError> {
    let from = BlockDevice::open(&lab.path("source"), false, None).unwrap();
    let source = Source::inspect(Box::new(from), "source", None, None)?;
    let sets = sets::load(&[], &[], sets::BOOT_SIZE, &source)?;
    let choice = choose(disk, "target", &source, &sets, Guid::from_bytes([7; 16]))?;
    let mut progress = Progress::new(Box::new(io::sink()), false);
    carry_out(&choice, disk, &source, &File, &mut progress)
}

fn row<'a>(rows: &'a [Row], kind: &str) -> &'a Row {
    rows.iter().find(|row| row.kind == kind).unwrap()
}

/// The three partitions are those of the source, to the byte, under their UUIDs.
fn same_system(lab: &Lab, target: &Path) {
    let (there, here) = (table(&lab.path("source")), table(target));
    for kind in [USR, VERITY, SIGNATURE] {
        let from = row(&there, kind);
        let to = here.iter().find(|row| row.uuid == from.uuid).unwrap();
        assert_eq!(
            (&to.kind, &to.name, to.size),
            (&from.kind, &from.name, from.size)
        );
        assert!(
            bytes(target, to) == bytes(&lab.path("source"), from),
            "{kind} differs"
        );
    }
}

/// Entries and bytes of everything before are as before; volumes are compared by what is in them.
fn others_kept(before: &[(Row, Vec<u8>)], target: &Path) {
    let now = table(target);
    for (row, content) in before {
        assert!(now.contains(row), "{row:?} is not in {now:?}");
        if row.kind == ESP {
            assert_eq!(
                mtype(target, row, "loader/loader.conf"),
                b"default windows\n"
            );
            assert_eq!(
                mtype(target, row, "EFI/Microsoft/Boot/bootmgfw.efi").len(),
                50_128
            );
        } else {
            assert!(bytes(target, row) == *content, "bytes of {row:?} changed");
        }
    }
}

fn contents(target: &Path) -> Vec<(Row, Vec<u8>)> {
    let rows = table(target).into_iter();
    rows.map(|row| {
        let content = bytes(target, &row);
        (row, content)
    })
    .collect()
}

#[test]
fn a_blank_disk_gets_everything_and_a_second_run_changes_nothing() {
    let lab = Lab::new();
    let target = lab.blank("target", 800 * MIB);
    let dry = install(&lab, &target, &["--dry-run"]).unwrap();
    assert!(dry.contains("EFI/Linux/system_2.efi"), "{dry}");
    assert!(
        fs::read(&target).unwrap().iter().all(|byte| *byte == 0),
        "a dry run wrote"
    );

    install(&lab, &target, &[]).unwrap();
    same_system(&lab, &target);
    let rows = table(&target);
    let esp = row(&rows, ESP);
    assert_eq!((rows.len(), esp.size), (4, 512 * MIB));
    let expected = [
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/Linux/system_2.efi",
        "EFI/systemd/systemd-bootx64.efi",
        "loader/loader.conf",
    ];
    assert_eq!(listing(&target, esp), expected);
    assert!(mtype(&target, esp, "EFI/Linux/system_2.efi") == uki(HASH));
    assert!(mtype(&target, esp, "EFI/BOOT/BOOTX64.EFI") == menu());
    sound_fat(&target, esp);

    let first = fs::read(&target).unwrap();
    let said = install(&lab, &target, &[]).unwrap();
    assert!(said.ends_with("everything was there already\n"), "{said}");
    assert!(fs::read(&target).unwrap() == first, "the second run wrote");
}

#[test]
fn beside_another_system_only_free_space_and_new_files_change() {
    let lab = Lab::new();
    let target = lab.other("target", 64 * MIB, 256 * MIB);
    let before = contents(&target);
    let error = install(&lab, &target, &[]).unwrap_err();
    assert!(
        matches!(error, InstallError::Unconfirmed { count: 3, .. }),
        "{error}"
    );
    assert_eq!(contents(&target), before);

    let said = install(&lab, &target, &["--yes"]).unwrap();
    assert!(
        said.contains("loader/loader.conf on partition 1 is another system's"),
        "{said}"
    );
    others_kept(&before, &target);
    same_system(&lab, &target);
    let rows = table(&target);
    assert_eq!(rows.len(), 6);
    let esp = row(&rows, ESP);
    assert!(mtype(&target, esp, "EFI/Linux/system_2.efi") == uki(HASH));
    sound_fat(&target, esp);
}

#[test]
fn an_esp_that_is_too_small_brings_the_fallback() {
    let lab = Lab::new();
    let target = lab.other("target", 2 * MIB, 256 * MIB);
    let before = contents(&target);
    let said = install(&lab, &target, &["--yes", "--esp-size", "100M"]).unwrap();
    assert!(
        said.contains("does not fit: built-in definitions: partition 1 (2097152 bytes)"),
        "{said}"
    );
    assert!(said.contains("bytes free for boot files"), "{said}");
    others_kept(&before, &target);
    same_system(&lab, &target);
    let rows = table(&target);
    let (esp, xbootldr) = (row(&rows, ESP), row(&rows, XBOOTLDR));
    assert_eq!(listing(&target, xbootldr), ["EFI/Linux/system_2.efi"]);
    assert!(mtype(&target, esp, "EFI/BOOT/BOOTX64.EFI") == menu());
    sound_fat(&target, esp);
    sound_fat(&target, xbootldr);
}

#[test]
fn where_nothing_fits_nothing_is_written_and_both_sets_say_why() {
    let lab = Lab::new();
    let target = lab.other("target", 2 * MIB, 64 * MIB);
    let before = fs::read(&target).unwrap();
    let error = install(&lab, &target, &["--yes"]).unwrap_err().to_string();
    assert!(fs::read(&target).unwrap() == before, "it wrote");
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(lines[1].contains("bytes free for boot files, 3"), "{error}");
    assert!(lines[2].contains("536870912 bytes (512.0 MiB)"), "{error}");
    assert!(lines[2].contains("the largest gap left has"), "{error}");
}

#[test]
fn definitions_of_the_vendor_decide_and_the_first_boot_gets_its_room() {
    let lab = Lab::new();
    let dir = lab.path("repart.d");
    fs::create_dir(&dir).unwrap();
    let write = |name: &str, lines: &str| {
        fs::write(dir.join(name), format!("[Partition]\n{lines}")).unwrap();
    };
    write("00-esp.conf", "Type=esp\nFormat=vfat\nSizeMaxBytes=100M\n");
    write(
        "10-usr.conf",
        "Type=usr\nCopyBlocks=auto\nSizeMaxBytes=20M\n",
    );
    write("20-verity.conf", "Type=usr-verity\nCopyBlocks=auto\n");
    write("30-sig.conf", "Type=usr-verity-sig\nCopyBlocks=auto\n");
    write(
        "40-root.conf",
        "Type=root\nFormat=ext4\nEncrypt=tpm2\nSizeMinBytes=100M\n",
    );
    let options = [
        "--yes",
        "--definitions",
        dir.to_str().unwrap(),
        "--fallback-definitions",
        dir.to_str().unwrap(),
    ];
    let small = lab.blank("small", 200 * MIB);
    let error = install(&lab, &small, &options).unwrap_err().to_string();
    assert!(
        error.contains("40-root.conf needs 104857600 bytes"),
        "{error}"
    );
    let target = lab.blank("target", 300 * MIB);
    install(&lab, &target, &options).unwrap();
    let rows = table(&target);
    let kinds: Vec<&str> = rows.iter().map(|row| row.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [ESP, USR, VERITY, SIGNATURE],
        "root is made by the first boot"
    );
    assert_eq!(row(&rows, USR).size, 20 * MIB);
    let from = table(&lab.path("source"));
    let (usr, source) = (
        bytes(&target, row(&rows, USR)),
        bytes(&lab.path("source"), row(&from, USR)),
    );
    assert!(usr[..source.len()] == source[..]);
}

#[test]
fn a_disk_that_reads_back_something_else_gets_no_table() {
    let lab = Lab::new();
    let target = lab.blank("target", 800 * MIB);
    install(&lab, &target, &[]).unwrap();
    let rows = table(&target);
    let esp = row(&rows, ESP);
    let (volume, image) = (bytes(&target, esp), uki(HASH));
    let found = volume.chunks(64).position(|chunk| chunk == &image[..64]);
    let image = u64::try_from(found.unwrap() * 64).unwrap();
    for at in [
        esp.offset + image + 100_000,
        row(&rows, USR).offset + 3_000_000,
        row(&rows, VERITY).offset + 70_000,
        row(&rows, SIGNATURE).offset + 12,
    ] {
        let target = lab.blank("lying", 800 * MIB);
        let inner = BlockDevice::open(&target, true, None).unwrap();
        let error = install_onto(&lab, &mut Lying { inner, at }).unwrap_err();
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(next) = cause {
            text.push_str(&format!(": {next}"));
            cause = next.source();
        }
        assert!(
            text.contains("reads back with another BLAKE3 hash"),
            "{at}: {text}"
        );
        let disk = BlockDevice::open(&target, false, None).unwrap();
        assert_eq!(
            repart::observe(&disk).unwrap().table,
            repart::TableState::None
        );
    }
}

#[test]
fn sectors_of_4096_bytes() {
    let lab = Lab::new();
    let target = lab.blank("target", 800 * MIB);
    install(
        &lab,
        &target,
        &["--sector-size", "4096", "--esp-size", "300M"],
    )
    .unwrap();
    let listed = tool(
        "fdisk",
        &["-b", "4096", "-l", target.to_str().unwrap()],
        b"",
    );
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains("Disklabel type: gpt"), "{listed}");
    assert!(
        listed.contains("300M EFI System") && listed.contains("8M Linux"),
        "{listed}"
    );
    let esp = Row {
        kind: ESP.into(),
        uuid: String::new(),
        name: String::new(),
        offset: MIB,
        size: 300 * MIB,
    };
    assert!(mtype(&target, &esp, "EFI/Linux/system_2.efi") == uki(HASH));
    sound_fat(&target, &esp);
    let said = install(&lab, &target, &[]).unwrap();
    assert!(said.ends_with("everything was there already\n"), "{said}");
}

#[test]
fn a_power_cut_at_any_write_is_made_good_by_the_next_run() {
    let lab = Lab::new();
    let origin = lab.other("origin", 16 * MIB, 48 * MIB);
    let before = contents(&origin);
    let esp = before[0].0.clone();
    let (image, loader) = (uki(HASH), menu());
    let mut cuts = 0;
    for left in 0.. {
        let target = lab.path("target");
        fs::copy(&origin, &target).unwrap();
        let mut disk = Failing::new(&target, left);
        let finished = install_onto(&lab, &mut disk).is_ok();
        disk.cut(left);
        others_kept(&before, &target);
        let rows = table(&target).len();
        assert!(rows == 3 || rows == 6, "half a table after {left} writes");
        let files = listing(&target, &esp);
        if files.iter().any(|file| file == "EFI/Linux/system_2.efi") {
            let there = mtype(&target, &esp, "EFI/Linux/system_2.efi");
            assert!(rows == 6 && there == image, "too early after {left} writes");
        }
        if !finished {
            cuts += 1;
            let mut disk = BlockDevice::open(&target, true, None).unwrap();
            install_onto(&lab, &mut disk).unwrap();
        }
        others_kept(&before, &target);
        same_system(&lab, &target);
        assert_eq!(table(&target).len(), 6, "after {left} writes");
        assert!(mtype(&target, &esp, "EFI/Linux/system_2.efi") == image);
        assert!(mtype(&target, &esp, "EFI/systemd/systemd-bootx64.efi") == loader);
        if finished {
            break;
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 40, "only {cuts} cuts");
}

#[test]
fn a_foreign_loader_stays_what_the_firmware_starts() {
    let lab = Lab::new();
    // A source that starts its image without a menu.
    let esp = lab.path("esp");
    fat(&esp, 16 * MIB, &[("EFI/BOOT/BOOTX64.EFI", uki(HASH))]);
    let pieces = [
        Piece::new(ESP, "esp", MIB, fs::read(&esp).unwrap()),
        Piece::new(USR, "system_2", 20 * MIB, noise(4, MIB)).uuid(USR_UUID),
        Piece::new(VERITY, "v", 30 * MIB, noise(5, MIB)).uuid(VERITY_UUID),
    ];
    disk(&lab.path("source"), 64 * MIB, &pieces);
    let foreign = pe(&[(".text", &noise(9, 9000))]);
    fat(&esp, 32 * MIB, &[("EFI/BOOT/BOOTX64.EFI", foreign.clone())]);
    let target = lab.path("target");
    disk(
        &target,
        128 * MIB,
        &[Piece::new(ESP, "x", MIB, fs::read(&esp).unwrap())],
    );
    let said = install(&lab, &target, &["--yes"]).unwrap();
    assert!(
        said.contains(r"--loader '\EFI\Linux\system_2-00112233.efi'"),
        "{said}"
    );
    let rows = table(&target);
    assert_eq!(
        mtype(&target, row(&rows, ESP), "EFI/BOOT/BOOTX64.EFI"),
        foreign
    );
    assert!(mtype(&target, row(&rows, ESP), "EFI/Linux/system_2-00112233.efi") == uki(HASH));
    let said = install(&lab, &target, &["--yes"]).unwrap();
    assert!(said.ends_with("everything was there already\n"), "{said}");
}

#[test]
fn refusals_before_anything_is_written() {
    let lab = Lab::new();
    let source = lab.path("source");
    let error = install(&lab, &source, &["--yes"]).unwrap_err();
    assert!(matches!(error, InstallError::OwnDisk { .. }), "{error}");

    let target = lab.blank("target", 800 * MIB);
    fs::write(&target, noise(1, 4096)).unwrap();
    fs::File::options()
        .write(true)
        .open(&target)
        .unwrap()
        .set_len(800 * MIB)
        .unwrap();
    let error = install(&lab, &target, &["--yes"]).unwrap_err();
    assert!(
        matches!(error, InstallError::NotBlank { offset: 0, .. }),
        "{error}"
    );

    let damaged = lab.blank("damaged", 800 * MIB);
    install(&lab, &damaged, &[]).unwrap();
    let rows = table(&damaged);
    let mut disk = BlockDevice::open(&damaged, true, None).unwrap();
    disk.write_at(row(&rows, USR).offset + 5 * MIB + 17, b"x")
        .unwrap();
    let before = fs::read(&damaged).unwrap();
    let error = install(&lab, &damaged, &["--yes"]).unwrap_err();
    assert!(
        matches!(error, InstallError::Differs { number: 4, .. }),
        "{error}"
    );
    assert!(fs::read(&damaged).unwrap() == before);

    let wrong = "f".repeat(64);
    let error = install(&lab, &damaged, &["--usrhash", &wrong])
        .unwrap_err()
        .to_string();
    assert!(error.contains(HASH), "{error}");
}
