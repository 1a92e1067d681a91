//! `Encrypt=tpm2` of an image, against a software TPM: what was sealed opens the volume, and stops doing so when the PCR
//! changes. One test, since libcryptsetup wants one thread.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../unlock/tests/common/mod.rs"]
mod common;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::Command;

use initrd_agent::repart_cli::Luks;
use unlock::tpm::Bank;

#[test]
fn a_volume_sealed_offline_opens_with_the_tpm() {
    let swtpm = common::Swtpm::new();
    swtpm.open().extend_all_banks(7, b"firmware").unwrap();
    let work = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(
        work.path().join("root.conf"),
        "[Partition]\nType=root\nFormat=ext4\nEncrypt=key-file+tpm2\nEncryptKDF=minimal\nSizeMaxBytes=96M\n",
    )
    .unwrap();
    fs::write(work.path().join("key"), "another way in").unwrap();
    let show = |name: &str| work.path().join(name).display().to_string();
    let image = show("disk.img");
    let make = |mode: &str, pcrs: &str| {
        let text = fs::read_to_string(work.path().join("root.conf")).unwrap();
        let text = text.replace("key-file+tpm2", mode);
        fs::write(work.path().join("root.conf"), text).unwrap();
        let words = [
            "repart".to_owned(),
            "--dry-run=no".to_owned(),
            "--empty=create".to_owned(),
            "--size=128M".to_owned(),
            "--seed=750b6cd5c4ae4012a15e7be3c29e6a47".to_owned(),
            format!("--tpm2-pcrs={pcrs}"),
            format!("--key-file={}", show("key")),
            format!("--definitions={}", work.path().display()),
            image.clone(),
        ];
        let mut luks = Luks::with_tpm(swtpm.tcti());
        repart::cli::run(words.map(OsString::from), Some(&mut luks))
    };
    let part = work.path().join("part");
    let extract = || {
        let mut disk = File::open(&image).unwrap();
        disk.seek(SeekFrom::Start(1 << 20)).unwrap();
        let mut target = File::create(&part).unwrap();
        std::io::copy(&mut disk.take(96 << 20), &mut target).unwrap();
        fs::remove_file(&image).unwrap();
    };

    // Sealed to nothing, it would open to every system: refused, where the peer prints a notice.
    assert_eq!(make("key-file+tpm2", ""), 1);
    fs::remove_file(&image).unwrap();

    assert_eq!(make("key-file+tpm2", "7"), 0);
    extract();
    let dump = Command::new("/usr/sbin/cryptsetup")
        .arg("luksDump")
        .arg(&part)
        .output()
        .unwrap();
    let dump = String::from_utf8(dump.stdout).unwrap();
    assert!(
        dump.contains("systemd-tpm2") && dump.contains("1: luks2"),
        "{dump}"
    );
    let opened = Command::new("/usr/sbin/cryptsetup")
        .args(["open", "--test-passphrase", "--key-file", &show("key")])
        .arg(&part)
        .status()
        .unwrap();
    assert!(opened.success());

    // The TPM alone: what the agent accepts on the next boot.
    let text = fs::read_to_string(work.path().join("root.conf")).unwrap();
    fs::write(
        work.path().join("root.conf"),
        text.replace("key-file+tpm2", "tpm2"),
    )
    .unwrap();
    assert_eq!(make("tpm2", "7"), 0);
    extract();
    let mut tpm = swtpm.open();
    let unlocked = unlock::luks::read(&part, &mut tpm, None).unwrap();
    assert_eq!(unlocked.uuid(), "b4d1501b-4385-4f47-b089-298643f4fd9a");
    drop(unlocked);
    tpm.extend_all_banks(7, b"another system").unwrap();
    assert!(tpm.pcr_read(Bank::Sha256, 7).unwrap().is_some());
    assert!(unlock::luks::read(&part, &mut tpm, None).is_err());
}
