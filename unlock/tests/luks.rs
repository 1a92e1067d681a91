//! LUKS2 volumes in files: made, read back by other people's tools, and attacked. (dm-crypt is for virtual machines.)

mod common;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Signer, Swtpm, on_crypt_thread, run};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use unlock::eventlog::{Event, EventLog};
use unlock::luks::{
    FormatRequest, HeaderError, LuksError, Refusal, SealedKey, Token, TokenError, format, read,
};
use unlock::tpm::policy::policy_pcr;
use unlock::tpm::{Bank, PcrPolicy, Pcrs, PublicKey, Signatures, Tpm, TpmError};

const UUID: &str = "6f8b1c1e-0000-4000-8000-000000000001";

/// A volume sealed to PCR 7 of a software TPM.
struct Volume {
    dir: TempDir,
    image: PathBuf,
    tpm: Tpm,
    _swtpm: Swtpm,
}

impl Volume {
    fn new() -> Self {
        let swtpm = Swtpm::new();
        let mut tpm = swtpm.open();
        tpm.extend_all_banks(7, b"state").expect("extend");
        let (dir, image) = blank(64);
        let key = SealedKey::new(&mut tpm, &PcrPolicy::literal(Pcrs::one(7)), None).expect("seal");
        format(&request(&image), key).expect("format");
        Self {
            dir,
            image,
            tpm,
            _swtpm: swtpm,
        }
    }

    fn read(&mut self) -> Result<String, LuksError> {
        read(&self.image, &mut self.tpm, None).map(|unlocked| unlocked.uuid().to_owned())
    }

    fn refusal(&mut self) -> String {
        match self.read() {
            Err(LuksError::Refused { source, .. }) => source.to_string(),
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn blank(megabytes: u64) -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("temporary directory");
    let image = dir.path().join("image");
    fs::File::create(&image)
        .expect("create")
        .set_len(megabytes << 20)
        .expect("length");
    (dir, image)
}

fn request(image: &Path) -> FormatRequest<'_> {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&hex::decode(UUID.replace('-', "")).expect("hex"));
    FormatRequest {
        device: image,
        uuid,
        label: Some("root"),
        sector_size: 4096,
        discard: true,
    }
}

/// Asks cryptsetup whether a passphrase opens key slot 0.
fn opens(image: &Path, passphrase: &str) -> bool {
    let mut child = Command::new("cryptsetup")
        .args(["open", "--test-passphrase", "--key-file=-", "--key-slot=0"])
        .arg(image)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("cryptsetup must be installed");
    child
        .stdin
        .take()
        .expect("stdin")
        .write_all(passphrase.as_bytes())
        .expect("write");
    child.wait().expect("wait").success()
}

fn size(bytes: &[u8]) -> usize {
    usize::try_from(u64::from_be_bytes(
        bytes[8..16].try_into().expect("8 bytes"),
    ))
    .expect("size")
}

fn header_json(image: &Path) -> Value {
    let bytes = fs::read(image).expect("read");
    let text = bytes[4096..].split(|byte| *byte == 0).next().expect("text");
    serde_json::from_slice(text).expect("JSON")
}

/// Writes a text into a header copy and makes the checksum right again, as an attacker would.
fn put(bytes: &mut [u8], at: usize, text: &[u8]) {
    let size = size(&bytes[at..]);
    let copy = &mut bytes[at..at + size];
    copy[4096..].fill(0);
    copy[4096..4096 + text.len()].copy_from_slice(text);
    seal_copy(copy);
}

fn seal_copy(copy: &mut [u8]) {
    copy[448..512].fill(0);
    let digest = Sha256::digest(&*copy);
    copy[448..480].copy_from_slice(&digest);
}

fn attack(image: &Path, change: impl FnOnce(&mut Value)) {
    let mut json = header_json(image);
    change(&mut json);
    let text = serde_json::to_vec(&json).expect("JSON");
    let mut bytes = fs::read(image).expect("read");
    let second = size(&bytes);
    put(&mut bytes, 0, &text);
    put(&mut bytes, second, &text);
    fs::write(image, bytes).expect("write");
}

#[test]
fn other_tools_understand_what_is_made() {
    on_crypt_thread(|| {
        let mut volume = Volume::new();
        let path = volume.image.to_str().expect("UTF-8").to_owned();
        run("cryptsetup", &["isLuks", "--type", "luks2", &path]);
        let dump = String::from_utf8(run("cryptsetup", &["luksDump", &path])).expect("text");
        for line in [
            UUID,
            "root",
            "allow-discards",
            "offset: 2097152",
            "aes-xts-plain64",
            "systemd-tpm2",
            "sha512",
            "4096 [bytes]",
        ] {
            assert!(dump.contains(line), "{line} is missing in\n{dump}");
        }
        assert!(
            dump.contains("Cipher key: 512 bits") && dump.contains("Iterations: 1000"),
            "{dump}"
        );

        let token = run("cryptsetup", &["token", "export", "--token-id", "0", &path]);
        let token =
            Token::from_json(&serde_json::from_slice(&token).expect("JSON")).expect("token");
        let secret = volume.tpm.unseal(&token.sealed, None).expect("unseal");
        let passphrase = STANDARD.encode(secret.bytes());
        assert_eq!(passphrase.len(), 44);
        assert!(
            opens(&volume.image, &passphrase),
            "the sealed passphrase opens the key slot"
        );
        assert!(!opens(&volume.image, "another"));
    });
}

#[test]
fn a_volume_opens_in_the_same_state_only() {
    on_crypt_thread(|| {
        let mut volume = Volume::new();
        assert_eq!(volume.read().expect("read"), UUID);
        volume.tpm.extend_all_banks(7, b"more").expect("extend");
        let error = volume.read().expect_err("another state");
        assert!(
            matches!(
                &error,
                LuksError::Tpm {
                    source: TpmError::PolicyMismatch { .. },
                    ..
                }
            ),
            "{error:?}"
        );
    });
}

#[test]
fn a_signed_volume_opens_with_the_image_signature() {
    on_crypt_thread(|| {
        let (swtpm, signer) = (Swtpm::new(), Signer::new());
        let mut tpm = swtpm.open();
        tpm.extend_all_banks(11, b"kernel").expect("extend");
        let value = tpm.pcr_read(Bank::Sha256, 11).expect("read").expect("bank");
        let state = policy_pcr([0; 32], Pcrs::one(11), &[value]);
        let signatures =
            Signatures::from_json(signer.sign(&[state]).as_bytes()).expect("signatures");
        let policy = PcrPolicy::signed(PublicKey::from_pem(&signer.pem()).expect("key"));
        let (_dir, image) = blank(16);

        let error = SealedKey::new(&mut tpm, &policy, None)
            .err()
            .expect("nothing to verify the seal with");
        assert!(
            matches!(error, TpmError::PolicyMismatch { .. }),
            "{error:?}"
        );

        let key = SealedKey::new(&mut tpm, &policy, Some(&signatures)).expect("seal");
        format(&request(&image), key).expect("format");
        let token = &header_json(&image)["tokens"]["0"];
        assert_eq!(token["tpm2_pubkey_pcrs"], json!([11]));
        assert_eq!(token["tpm2-pcrs"], json!([]));
        assert_eq!(token["tpm2-primary-alg"], json!("ecc"));
        assert_eq!(token["tpm2_pubkey"], json!(STANDARD.encode(signer.pem())));
        read(&image, &mut tpm, Some(&signatures))
            .map(drop)
            .expect("read");
        tpm.extend_all_banks(11, b"leave-initrd").expect("extend");
        assert!(
            read(&image, &mut tpm, Some(&signatures)).is_err(),
            "after leave-initrd"
        );
    });
}

#[test]
fn the_volume_key_is_measured_and_recorded() {
    on_crypt_thread(|| {
        let mut volume = Volume::new();
        let root = volume.dir.path();
        fs::create_dir_all(root.join("proc/sys/kernel/random")).expect("create");
        fs::write(
            root.join("proc/sys/kernel/random/boot_id"),
            "01234567-89ab-cdef-0123-456789abcdef\n",
        )
        .expect("write");
        let log = EventLog::below(root);
        log.extend(
            &mut volume.tpm,
            11,
            b"enter-initrd",
            Event::phase("enter-initrd"),
        )
        .expect("phase");
        let unlocked = read(&volume.image, &mut volume.tpm, None).expect("read");
        unlocked
            .measure("root", &mut volume.tpm, &log)
            .expect("measure");

        let path = root.join("run/log/systemd/tpm2-measure.log");
        let text = fs::read_to_string(&path).expect("read");
        let records: Vec<Value> = text
            .split_terminator('\n')
            .map(|line| {
                serde_json::from_str(line.strip_prefix('\u{1e}').expect("record separator"))
                    .expect("JSON")
            })
            .collect();
        assert_eq!(records.len(), 2);
        assert_eq!(
            records[0]["content"]["bootId"],
            "0123456789abcdef0123456789abcdef"
        );
        assert_eq!(
            records[1]["content"]["string"],
            format!("cryptsetup:root:{UUID}")
        );
        assert_eq!(records[1]["content"]["eventType"], "volume-key");
        assert_eq!(records[1]["pcr"], 15);
        for entry in records[1]["digests"].as_array().expect("digests") {
            if entry["hashAlg"] == "sha256" {
                let digest = hex::decode(entry["digest"].as_str().expect("hex")).expect("hex");
                let expected = Sha256::digest([vec![0; 32], digest].concat()).to_vec();
                assert_eq!(
                    volume.tpm.pcr_read(Bank::Sha256, 15).expect("read"),
                    Some(expected)
                );
            }
        }
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            fs::metadata(&path).expect("metadata").permissions().mode() & 0o7777,
            0o600,
            "no measurement pending"
        );
    });
}

#[test]
fn a_replaced_key_slot_is_told_from_a_refusing_tpm() {
    on_crypt_thread(|| {
        let mut volume = Volume::new();
        let mut bytes = fs::read(&volume.image).expect("read");
        bytes[32768..32768 + 258_048].fill(7);
        fs::write(&volume.image, bytes).expect("write");
        let error = volume.read().expect_err("a key slot of garbage");
        assert!(matches!(error, LuksError::WrongSecret { .. }), "{error:?}");
    });
}

#[test]
fn headers_an_attacker_would_write_are_refused() {
    type Change = fn(&mut Value);
    let attacks: [(&str, Change); 19] = [
        ("segments.encryption", |j| {
            j["segments"]["0"]["encryption"] = json!("cipher_null-ecb")
        }),
        ("segments.encryption", |j| {
            j["segments"]["0"]["encryption"] = json!("aes-cbc-essiv:sha256")
        }),
        ("area.encryption", |j| {
            j["keyslots"]["0"]["area"]["encryption"] = json!("cipher_null-ecb")
        }),
        ("2 segments", |j| {
            j["segments"]["1"] = j["segments"]["0"].clone()
        }),
        ("segments.type", |j| {
            j["segments"]["0"]["type"] = json!("linear")
        }),
        ("segments.integrity", |j| {
            j["segments"]["0"]["integrity"] = json!({"type": "none"})
        }),
        ("segments.flags", |j| {
            j["segments"]["0"]["flags"] = json!(["backup-final"])
        }),
        ("segments.offset", |j| {
            j["segments"]["0"]["offset"] = json!("4096")
        }),
        ("segments.size", |j| {
            j["segments"]["0"]["size"] = json!("1048576")
        }),
        ("segments.sector_size", |j| {
            j["segments"]["0"]["sector_size"] = json!(1_048_576)
        }),
        ("reencryption", |j| {
            j["config"]["requirements"] = json!({"mandatory": ["online-reencrypt-v2"]})
        }),
        ("config.flags", |j| {
            j["config"]["flags"] = json!(["no-journal"])
        }),
        ("keyslots.1.type", |j| {
            j["keyslots"]["1"] = j["keyslots"]["0"].clone();
            j["keyslots"]["1"]["type"] = json!("reencrypt");
        }),
        ("keyslots.0.kdf", |j| {
            j["keyslots"]["0"]["kdf"]["iterations"] = json!(4_000_000_000u64)
        }),
        ("keyslots.0.key_size", |j| {
            j["keyslots"]["0"]["key_size"] = json!(32)
        }),
        ("area.offset", |j| {
            j["keyslots"]["0"]["area"]["offset"] = json!("18446744073709551615")
        }),
        ("2 systemd-tpm2 tokens", |j| {
            j["tokens"]["1"] = j["tokens"]["0"].clone()
        }),
        ("0 systemd-tpm2 tokens", |j| j["tokens"] = json!({})),
        ("digests", |j| j["digests"]["0"]["keyslots"] = json!(["3"])),
    ];
    on_crypt_thread(move || {
        let mut volume = Volume::new();
        let intact = fs::read(&volume.image).expect("read");
        for (what, change) in attacks {
            attack(&volume.image, change);
            let refusal = volume.refusal();
            assert!(refusal.contains(what), "{what}: {refusal}");
            fs::write(&volume.image, &intact).expect("write");
        }
        attack(&volume.image, |j| {
            j["tokens"]["0"]["tpm2-pin"] = json!(true)
        });
        let error = volume.read().expect_err("a PIN");
        let token = |error: &LuksError| {
            matches!(
                error,
                LuksError::Refused {
                    source: Refusal::Token(TokenError::Unsupported("a PIN")),
                    ..
                }
            )
        };
        assert!(token(&error), "{error:?}");
        fs::write(&volume.image, &intact).expect("write");
        volume.read().expect("the intact header still opens");
    });
}

#[test]
fn excessive_texts_are_not_parsed() {
    on_crypt_thread(|| {
        let mut volume = Volume::new();
        let second = size(&fs::read(&volume.image).expect("read"));
        let deep = ["[".repeat(2000), "]".repeat(2000)].concat();
        let mut bytes = fs::read(&volume.image).expect("read");
        put(&mut bytes, 0, deep.as_bytes());
        put(&mut bytes, second, deep.as_bytes());
        fs::write(&volume.image, bytes).expect("write");
        let error = volume.read().expect_err("deep nesting");
        assert!(
            matches!(
                error,
                LuksError::Header {
                    source: HeaderError::Excessive,
                    ..
                }
            ),
            "{error:?}"
        );

        let (_dir, image) = blank(64);
        let path = image.to_str().expect("UTF-8");
        let mut child = Command::new("cryptsetup")
            .args([
                "luksFormat",
                "-q",
                "--type=luks2",
                "--pbkdf=pbkdf2",
                "--pbkdf-force-iterations=1000",
            ])
            .args(["--luks2-metadata-size=256k", "--key-file=-", path])
            .stdin(Stdio::piped())
            .spawn()
            .expect("cryptsetup must be installed");
        child
            .stdin
            .take()
            .expect("stdin")
            .write_all(b"x")
            .expect("write");
        assert!(child.wait().expect("wait").success());
        attack(&image, |j| j["padding"] = json!("x".repeat(200_000)));
        let error = read(&image, &mut volume.tpm, None)
            .err()
            .expect("a long text");
        assert!(
            matches!(
                error,
                LuksError::Header {
                    source: HeaderError::Excessive,
                    ..
                }
            ),
            "{error:?}"
        );
    });
}

#[test]
fn the_newer_intact_copy_counts() {
    on_crypt_thread(|| {
        let mut volume = Volume::new();
        let intact = fs::read(&volume.image).expect("read");
        let second = size(&intact);

        let mut first_damaged = intact.clone();
        first_damaged[5000] ^= 1;
        fs::write(&volume.image, &first_damaged).expect("write");
        volume.read().expect("the second copy");
        first_damaged[second + 5000] ^= 1;
        fs::write(&volume.image, &first_damaged).expect("write");
        let error = volume.read().expect_err("both damaged");
        assert!(
            matches!(
                error,
                LuksError::Header {
                    source: HeaderError::Damaged,
                    ..
                }
            ),
            "{error:?}"
        );

        // A newer second copy with a null cipher, behind an innocent first one.
        let mut json = header_json_of(&intact);
        json["segments"]["0"]["encryption"] = json!("cipher_null-ecb");
        let mut two_faced = intact.clone();
        let sequence = u64::from_be_bytes(two_faced[16..24].try_into().expect("8 bytes"));
        two_faced[second + 16..second + 24].copy_from_slice(&(sequence + 1).to_be_bytes());
        put(
            &mut two_faced,
            second,
            &serde_json::to_vec(&json).expect("JSON"),
        );
        fs::write(&volume.image, &two_faced).expect("write");
        assert!(volume.refusal().contains("segments.encryption"));

        fs::write(&volume.image, vec![0; intact.len()]).expect("write");
        let error = volume.read().expect_err("empty");
        assert!(
            matches!(
                error,
                LuksError::Header {
                    source: HeaderError::Absent,
                    ..
                }
            ),
            "{error:?}"
        );
    });
}

fn header_json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes[4096..].split(|byte| *byte == 0).next().expect("text"))
        .expect("JSON")
}
