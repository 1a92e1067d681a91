//! Encrypted partitions of images, judged by cryptsetup and by another implementation of AES-XTS.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, copy};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const KEY: &str = "correct horse battery staple";

struct Work {
    dir: tempfile::TempDir,
}

impl Work {
    fn new(definition: &str) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let work = Self { dir };
        fs::create_dir(work.path("defs")).unwrap();
        fs::create_dir_all(work.path("root/data")).unwrap();
        fs::write(work.path("root/data/hello"), "hello from inside\n").unwrap();
        fs::write(work.path("key"), KEY).unwrap();
        let text = format!("[Partition]\n{definition}\nSizeMaxBytes=128M\n");
        fs::write(work.path("defs/root.conf"), text).unwrap();
        work
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, extra: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_repart"))
            .args([
                "--dry-run=no",
                "--empty=create",
                "--size=200M",
                "--json=short",
            ])
            .arg("--seed=750b6cd5c4ae4012a15e7be3c29e6a47")
            .arg(format!("--definitions={}", self.path("defs").display()))
            .arg(format!("--root={}", self.path("root").display()))
            .args(extra)
            .arg(self.path("disk.img"))
            .env("TMPDIR", self.dir.path())
            .output()
            .unwrap()
    }

    /// The partition as a file.
    fn made(&self, extra: &[&str]) -> String {
        let out = self.run(extra);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}");
        let rows: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
        let number = |key: &str| rows[0][key].as_u64().unwrap();
        let mut image = File::open(self.path("disk.img")).unwrap();
        image.seek(SeekFrom::Start(number("offset"))).unwrap();
        let part = self.path("part");
        let mut target = File::create(&part).unwrap();
        copy(&mut image.take(number("raw_size")), &mut target).unwrap();
        part.to_str().unwrap().to_owned()
    }
}

fn tool(program: &str, arguments: &[&str]) -> (bool, String) {
    let out = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    (
        out.status.success(),
        text + &String::from_utf8_lossy(&out.stderr),
    )
}

fn good(program: &str, arguments: &[&str]) -> String {
    let (done, said) = tool(program, arguments);
    assert!(done, "{program} {arguments:?}: {said}");
    said
}

/// Decrypts the payload with python's `cryptography`, which is OpenSSL.
const DECRYPT: &str = "
import json, subprocess, sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
part, key, out = sys.argv[1:]
dump = subprocess.run(['cryptsetup', 'luksDump', '--dump-json-metadata', part], check=True, capture_output=True).stdout
segment = json.loads(dump)['segments']['0']
assert segment['iv_tweak'] == '0' and segment['encryption'] == 'aes-xts-plain64', segment
size, offset = segment['sector_size'], int(segment['offset'])
key = open(key, 'rb').read()
with open(part, 'rb') as source, open(out, 'wb') as target:
    source.seek(offset)
    number = 0
    while data := source.read(size):
        iv = number.to_bytes(16, 'little')
        target.write(Cipher(algorithms.AES(key), modes.XTS(iv)).decryptor().update(data))
        number += size // 512
print(size, offset)
";

/// The file system inside, or `None` with the reason where there is nothing to decrypt it with.
fn decrypted(work: &Work, part: &str, key: &Path) -> Option<(String, String)> {
    let volume_key = work.path("volume-key").to_str().unwrap().to_owned();
    let key = key.to_str().unwrap();
    good(
        "cryptsetup",
        &[
            "luksDump",
            "--batch-mode",
            "--dump-volume-key",
            "--volume-key-file",
            &volume_key,
            "--key-file",
            key,
            part,
        ],
    );
    if !tool("python3", &["-c", "import cryptography"]).0 {
        println!("skipped: no python3-cryptography to decrypt with");
        return None;
    }
    let inside = work.path("inside").to_str().unwrap().to_owned();
    let said = good("python3", &["-c", DECRYPT, part, &volume_key, &inside]);
    Some((inside, said))
}

#[test]
fn a_key_file_opens_what_was_encrypted_offline() {
    let work = Work::new("Type=root\nFormat=ext4\nEncrypt=key-file\nCopyFiles=/data");
    let key = work.path("key");
    let part = work.made(&[&format!("--key-file={}", key.display())]);
    let dump = good("cryptsetup", &["luksDump", &part]);
    assert!(dump.contains("Label:         \tluks-root-x86-64"), "{dump}");
    // Derived from the seed (spec 3.2).
    assert!(
        dump.contains("b4d1501b-4385-4f47-b089-298643f4fd9a"),
        "{dump}"
    );
    assert!(
        dump.contains("sector: 4096") && dump.contains("argon2id"),
        "{dump}"
    );
    assert!(dump.contains("allow-discards"), "{dump}");
    let open = |key: &Path| {
        let key = key.to_str().unwrap();
        tool(
            "cryptsetup",
            &["open", "--test-passphrase", "--key-file", key, &part],
        )
        .0
    };
    assert!(open(&key));
    fs::write(work.path("wrong"), "wrong").unwrap();
    assert!(!open(&work.path("wrong")));
    let Some((inside, said)) = decrypted(&work, &part, &key) else {
        return;
    };
    assert_eq!(said.trim(), format!("4096 {}", 2 << 20));
    good("e2fsck", &["-fn", &inside]);
    let text = good("debugfs", &["-R", "cat /data/hello", &inside]);
    assert!(text.starts_with("hello from inside"), "{text}");
}

#[test]
fn keys_of_the_definition_come_first() {
    let work =
        Work::new("Type=swap\nEncrypt=key-file\nEncryptKDF=pbkdf2\nVolumeLabel=mine\nDiscard=no");
    fs::write(work.path("own"), [0, 1, 2, 255]).unwrap();
    let file = work.path("defs/root.conf");
    let text = fs::read_to_string(&file).unwrap();
    let own = work.path("own");
    fs::write(
        &file,
        format!(
            "{text}KeyFile={}\nFileSystemSectorSize=512\n",
            own.display()
        ),
    )
    .unwrap();
    let part = work.made(&[&format!("--key-file={}", work.path("key").display())]);
    let dump = good("cryptsetup", &["luksDump", &part]);
    assert!(
        dump.contains("\tmine\n") && dump.contains("sector: 512"),
        "{dump}"
    );
    assert!(
        dump.contains("PBKDF:      pbkdf2") && !dump.contains("allow-discards"),
        "{dump}"
    );
    if let Some((inside, _)) = decrypted(&work, &part, &own) {
        assert!(good("blkid", &["-p", &inside]).contains("TYPE=\"swap\""));
    }
}

/// systemd-repart's rule: a volume for which a key is enrolled later.
#[test]
fn without_a_key_the_empty_passphrase_opens() {
    let work = Work::new("Type=root\nFormat=ext4\nEncrypt=key-file\nEncryptKDF=minimal");
    let part = work.made(&[]);
    // An empty line: an empty key file is refused by cryptsetup itself.
    let script = "echo | cryptsetup open --test-passphrase \"$1\"";
    good("sh", &["-c", script, "sh", &part]);
}

#[test]
fn what_is_missing_is_said_before_anything_is_written() {
    for (definition, reason) in [
        (
            "Type=root\nEncrypt=key-file",
            "needs KeyFile= or --key-file=",
        ),
        (
            "Type=root\nEncrypt=key-file\nKeyFile=/nonexistent/key",
            "No such file",
        ),
        ("Type=root\nEncrypt=tpm2\nTPM2PCRs=7", "TPM"),
    ] {
        let work = Work::new(definition);
        let device = "--tpm2-device=/nonexistent/tpm";
        let out = work.run(&[device, "--rules=own"]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains(reason), "{said}");
        assert!(said.contains("nothing was written"), "{said}");
        let image = fs::read(work.path("disk.img")).unwrap();
        assert!(image.iter().all(|byte| *byte == 0));
    }
}
