//! Volumes that are ours and volumes that only unlock, on a real software TPM. The attacker uses tpm2-tools.

mod common;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Signer, Swtpm, on_crypt_thread};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use unlock::luks::provenance::{
    Claim, Foreign, MAX_VOLUMES, NotOurs, Others, Proof, ProvenanceError, Record, Unprovable,
    Verdict, register,
};
use unlock::luks::{FormatRequest, SealedKey, format, read};
use unlock::tpm::policy::policy_pcr;
use unlock::tpm::{Bank, PcrPolicy, Pcrs, PublicKey, Signatures, Tcti, Tpm, TpmError};

const DISK: [u8; 16] = [0xd1; 16];
const ROOT: &str = "6f8b1c1e-0000-4000-8000-000000000001";
/// The record's attributes and one more.
const PLANTED: &str = "policywrite|authread|authwrite|no_da";
const HOME: &str = "6f8b1c1e-0000-4000-8000-000000000002";

/// A TPM that was booted with an image whose maker signs two phases, as ukify does.
struct Machine {
    swtpm: Swtpm,
    policy: PcrPolicy,
    signatures: Signatures,
}

impl Machine {
    fn new() -> Self {
        Self::of(&Signer::new())
    }

    fn of(signer: &Signer) -> Self {
        let initrd = extend(extend([0; 32], "kernel"), "enter-initrd");
        let signed = [initrd, extend(initrd, "leave-initrd")]
            .map(|value| policy_pcr([0; 32], Pcrs::one(11), &[value.to_vec()]));
        let machine = Self {
            swtpm: Swtpm::new(),
            policy: PcrPolicy::signed(PublicKey::from_pem(&signer.pem()).expect("key")),
            signatures: Signatures::from_json(signer.sign(&signed).as_bytes()).expect("JSON"),
        };
        machine.boot("kernel");
        machine
    }

    fn boot(&self, kernel: &str) -> Tpm {
        let mut tpm = self.swtpm.open();
        for word in [kernel, "enter-initrd"] {
            tpm.extend_all_banks(11, word.as_bytes()).expect("extend");
        }
        tpm
    }

    fn reboot(&mut self, kernel: &str) {
        self.swtpm.reboot();
        self.boot(kernel);
    }

    fn key(&self) -> SealedKey {
        SealedKey::new(&mut self.swtpm.open(), &self.policy, Some(&self.signatures)).expect("seal")
    }

    fn register(&self, others: Others, claims: &[Claim<'_>]) -> Result<Record, ProvenanceError> {
        let mut tpm = self.swtpm.open();
        let signatures = Some(&self.signatures);
        register(&mut tpm, &self.policy, signatures, &DISK, others, claims)
    }

    fn record(&self) -> Record {
        Record::read(&mut self.swtpm.open(), &self.policy).expect("read")
    }

    /// The TPM with somebody on the bus, who sees every command's code and answer.
    fn through(&self, change: impl FnMut(u32, &mut [u8]) + Send + 'static) -> Tpm {
        let Tcti::Swtpm { port } = self.swtpm.tcti() else {
            panic!("a software TPM");
        };
        let port = interposer(port, change);
        Tpm::open(&Tcti::Swtpm { port }).expect("open")
    }

    /// Runs one of the attacker's tools against the TPM.
    fn tool(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let Tcti::Swtpm { port } = self.swtpm.tcti() else {
            panic!("a software TPM");
        };
        let output = Command::new(program)
            .args(args)
            .env(
                "TPM2TOOLS_TCTI",
                format!("swtpm:host=127.0.0.1,port={port}"),
            )
            .output()
            .unwrap_or_else(|e| panic!("{program} must be installed: {e}"));
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// The same for a command line that must succeed.
    fn step(&self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        self.tool(words[0], &words[1..])
            .unwrap_or_else(|error| panic!("{line}: {error}"));
    }

    /// Handle and policy of the one index there is.
    fn index(&self) -> (String, Vec<u8>) {
        let text = self.tool("tpm2_nvreadpublic", &[]).expect("an index");
        let handle = text.split(':').next().expect("a handle").to_owned();
        let policy = text
            .split_once("authorization policy: ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .map(|hex| hex::decode(hex).expect("hex"))
            .expect("a policy");
        (handle, policy)
    }
}

fn extend(pcr: [u8; 32], word: &str) -> [u8; 32] {
    Sha256::digest([&pcr[..], &Sha256::digest(word)].concat()).into()
}

fn foreign(verdict: Verdict) -> Foreign {
    match verdict {
        Verdict::Foreign(reason) => reason,
        other => panic!("not found foreign: {other:?}"),
    }
}

fn unprovable(verdict: Verdict) -> Unprovable {
    match verdict {
        Verdict::Unprovable(reason) => reason,
        other => panic!("not unprovable: {other:?}"),
    }
}

fn write_refusal(result: Result<Record, ProvenanceError>) -> String {
    match result {
        Err(ProvenanceError::Write(TpmError::PolicyMismatch { reason })) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

fn volume(dir: &Path, uuid: &str, key: SealedKey) -> std::path::PathBuf {
    let image = dir.join(uuid);
    std::fs::File::create(&image)
        .and_then(|file| file.set_len(16 << 20))
        .expect("image");
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hex::decode(uuid.replace('-', "")).expect("hex"));
    let request = FormatRequest {
        device: &image,
        uuid: bytes,
        label: None,
        sector_size: 4096,
        discard: false,
    };
    format(&request, key).map(drop).expect("format");
    image
}

#[test]
fn what_was_registered_is_ours_after_a_reboot_and_a_volume_that_only_unlocks_is_not() {
    on_crypt_thread(|| {
        let mut machine = Machine::new();
        let dir = TempDir::new().expect("directory");
        let key = machine.key();
        machine
            .register(Others::Forget, &[key.claim("root", ROOT)])
            .expect("register");
        let ours = volume(dir.path(), ROOT, key);
        // Sealing takes public data only, so that anybody can make this one; the worst case: the same UUID.
        let theirs = TempDir::new().expect("directory");
        let theirs = volume(theirs.path(), ROOT, machine.key());

        machine.reboot("kernel");
        let record = machine.record();
        let open = |image: &Path| {
            read(image, &mut machine.swtpm.open(), Some(&machine.signatures)).expect("unlocks")
        };
        let ours = open(&ours);
        assert_eq!(
            record.verify(&DISK, &ours.claim("root")),
            Verdict::Ours(Proof::Image)
        );
        assert_eq!(
            foreign(record.verify(&DISK, &ours.claim("home"))),
            Foreign::Unknown
        );
        assert_eq!(record.admit(&DISK, "root", &ours).ok(), Some(Proof::Image));
        let theirs = open(&theirs);
        let refusal = record.admit(&DISK, "root", &theirs).expect_err("refused");
        assert!(matches!(
            refusal,
            NotOurs::Foreign {
                source: Foreign::Replaced,
                ..
            }
        ));
        assert_eq!(
            foreign(record.verify(&DISK, &theirs.claim("root"))),
            Foreign::Replaced
        );
        assert_eq!(
            foreign(record.verify(&DISK, &theirs.claim("home"))),
            Foreign::Unknown
        );
    });
}

#[test]
fn our_token_on_a_foreign_header_and_a_foreign_token_on_ours_change_nothing() {
    let machine = Machine::new();
    let (ours, theirs) = (machine.key(), machine.key());
    let record = machine
        .register(Others::Forget, &[ours.claim("root", ROOT)])
        .expect("register");
    let genuine = ours.claim("root", ROOT);
    let glued = Claim {
        volume_key: theirs.claim("root", ROOT).volume_key,
        ..genuine
    };
    assert_eq!(foreign(record.verify(&DISK, &glued)), Foreign::Replaced);
    let resealed = Claim {
        srk: b"nonsense",
        ..genuine
    };
    assert_eq!(
        record.verify(&DISK, &resealed),
        Verdict::Ours(Proof::Image),
        "the volume key decides, not the token"
    );
}

#[test]
fn volumes_do_not_change_places_uuids_or_disks() {
    let machine = Machine::new();
    let (root, home) = (machine.key(), machine.key());
    let claims = [root.claim("root", ROOT), home.claim("home", HOME)];
    let record = machine.register(Others::Forget, &claims).expect("register");
    for claim in &claims {
        assert_eq!(record.verify(&DISK, claim), Verdict::Ours(Proof::Image));
    }
    for (disk, claim) in [
        (DISK, root.claim("home", ROOT)),
        (DISK, home.claim("root", HOME)),
        (DISK, root.claim("root", HOME)),
    ] {
        assert_eq!(foreign(record.verify(&disk, &claim)), Foreign::Replaced);
    }
    assert_eq!(
        foreign(record.verify(&[0xd2; 16], &claims[1])),
        Foreign::Unknown,
        "the home of one disk beside the root of another"
    );
}

#[test]
fn a_volume_of_another_machine_is_told_by_name() {
    let signer = Signer::new();
    let (here, there) = (Machine::of(&signer), Machine::of(&signer));
    let key = there.key();
    there
        .register(Others::Forget, &[key.claim("root", ROOT)])
        .expect("register");
    here.key();
    assert_eq!(
        unprovable(here.record().verify(&DISK, &key.claim("root", ROOT))),
        Unprovable::OtherTpm,
        "a new board"
    );
    let own = here.key();
    let record = here
        .register(Others::Forget, &[own.claim("root", ROOT)])
        .expect("register");
    assert_eq!(
        foreign(record.verify(&DISK, &key.claim("root", ROOT))),
        Foreign::OtherMachine,
        "disks swapped between two machines"
    );
}

#[test]
fn a_cleared_tpm_proves_nothing() {
    let machine = Machine::new();
    let key = machine.key();
    let claim = key.claim("root", ROOT);
    machine
        .register(Others::Forget, &[claim])
        .expect("register");
    machine.tool("tpm2_clear", &[]).expect("clear");
    assert_eq!(
        unprovable(machine.record().verify(&DISK, &claim)),
        Unprovable::Cleared
    );
    machine.key();
    assert_eq!(
        unprovable(machine.record().verify(&DISK, &claim)),
        Unprovable::OtherTpm
    );
}

#[test]
fn an_older_root_and_the_home_of_another_root_are_foreign() {
    let machine = Machine::new();
    let (old, home) = (machine.key(), machine.key());
    let (old, home) = (old.claim("root", ROOT), home.claim("home", HOME));
    machine
        .register(Others::Forget, &[old, home])
        .expect("register");
    let kept = machine.key();
    let kept = kept.claim("root", ROOT);
    let record = machine
        .register(Others::Keep, &[kept])
        .expect("a reset that keeps home");
    assert_eq!(record.verify(&DISK, &home), Verdict::Ours(Proof::Image));
    assert_eq!(foreign(record.verify(&DISK, &old)), Foreign::Replaced);

    let fresh = machine.key();
    let record = machine
        .register(Others::Forget, &[fresh.claim("root", ROOT)])
        .expect("a new root");
    assert_eq!(foreign(record.verify(&DISK, &kept)), Foreign::Replaced);
    assert_eq!(foreign(record.verify(&DISK, &home)), Foreign::Unknown);
}

#[test]
fn only_the_initrd_of_a_genuine_image_registers() {
    let mut machine = Machine::new();
    let key = machine.key();
    let claim = key.claim("root", ROOT);
    machine.reboot("evil");
    let reason = write_refusal(machine.register(Others::Keep, &[claim]));
    assert!(reason.contains("no signature"), "{reason}");

    machine.reboot("kernel");
    let mut tpm = machine.swtpm.open();
    tpm.extend_all_banks(15, b"a volume key").expect("extend");
    drop(tpm);
    let reason = write_refusal(machine.register(Others::Keep, &[claim]));
    assert!(reason.contains("PCR 15"), "{reason}");
    assert_eq!(
        unprovable(machine.record().verify(&DISK, &claim)),
        Unprovable::NoRecord
    );
}

#[test]
fn the_signature_of_another_key_does_not_register() {
    let (machine, other) = (Machine::new(), Signer::new());
    let key = machine.key();
    let claim = key.claim("root", ROOT);
    machine.register(Others::Keep, &[claim]).expect("register");
    let state = extend(extend([0; 32], "kernel"), "enter-initrd");
    let state = policy_pcr([0; 32], Pcrs::one(11), &[state.to_vec()]);
    let theirs = Signatures::from_json(other.sign(&[state]).as_bytes()).expect("JSON");
    let evil = machine.key();
    let reason = write_refusal(register(
        &mut machine.swtpm.open(),
        &machine.policy,
        Some(&theirs),
        &DISK,
        Others::Keep,
        &[evil.claim("root", ROOT)],
    ));
    assert!(reason.contains("no signature"), "{reason}");
    // With a policy of his own he gets a record of his own, which is not the one that is asked.
    register(
        &mut machine.swtpm.open(),
        &PcrPolicy::signed(PublicKey::from_pem(&other.pem()).expect("key")),
        Some(&theirs),
        &DISK,
        Others::Keep,
        &[evil.claim("root", ROOT)],
    )
    .expect("his own");
    let record = machine.record();
    assert_eq!(record.verify(&DISK, &claim), Verdict::Ours(Proof::Image));
    assert_eq!(
        foreign(record.verify(&DISK, &evil.claim("root", ROOT))),
        Foreign::Replaced
    );
}

#[test]
fn whoever_owns_the_tpm_can_destroy_the_record_but_not_forge_it() {
    let machine = Machine::new();
    let key = machine.key();
    let claim = key.claim("root", ROOT);
    machine.register(Others::Keep, &[claim]).expect("register");
    let (handle, policy) = machine.index();
    let dir = TempDir::new().expect("directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    machine
        .tool(
            "tpm2_nvread",
            &["-C", &handle, "-o", &path("record"), &handle],
        )
        .expect("everybody may read");
    assert_eq!(std::fs::read(path("record")).expect("read").len(), 480);
    for owner in ["o", handle.as_str()] {
        let write = ["-C", owner, "-i", &path("record"), &handle];
        machine
            .tool("tpm2_nvwrite", &write)
            .expect_err("nobody may write");
    }

    machine
        .tool("tpm2_nvundefine", &["-C", "o", &handle])
        .expect("delete");
    assert_eq!(
        unprovable(machine.record().verify(&DISK, &claim)),
        Unprovable::NoRecord
    );

    std::fs::write(path("policy"), &policy).expect("write");
    let define = |attributes: &str| {
        let policy = path("policy");
        let args = [
            "-C", "o", "-s", "480", "-a", attributes, "-L", &policy, &handle,
        ];
        machine.tool("tpm2_nvdefine", &args).expect("define");
    };
    define("policywrite|authread|no_da");
    for owner in ["o", handle.as_str()] {
        let write = ["-C", owner, "-i", &path("record"), &handle];
        machine
            .tool("tpm2_nvwrite", &write)
            .expect_err("the same index cannot be written either");
    }
    assert_eq!(
        unprovable(machine.record().verify(&DISK, &claim)),
        Unprovable::Emptied
    );

    machine
        .tool("tpm2_nvundefine", &["-C", "o", &handle])
        .expect("delete");
    define(PLANTED);
    let write = ["-C", &handle, "-i", &path("record"), &handle];
    machine.tool("tpm2_nvwrite", &write).expect("a planted one");
    assert_eq!(
        unprovable(machine.record().verify(&DISK, &claim)),
        Unprovable::OtherWriter
    );
    let record = machine.register(Others::Keep, &[claim]).expect("again");
    assert_eq!(record.verify(&DISK, &claim), Verdict::Ours(Proof::Image));
}

#[test]
fn without_signatures_only_the_boot_state_is_proven() {
    let mut machine = Machine::new();
    let policy = PcrPolicy::literal(Pcrs::one(7));
    let key = machine.key();
    let claim = key.claim("root", ROOT);
    let mut tpm = machine.swtpm.open();
    tpm.extend_all_banks(7, b"secure boot").expect("extend");
    let record =
        register(&mut tpm, &policy, None, &DISK, Others::Keep, &[claim]).expect("register");
    drop(tpm);
    assert_eq!(
        record.verify(&DISK, &claim),
        Verdict::Ours(Proof::BootState)
    );
    machine.reboot("another kernel");
    let mut tpm = machine.swtpm.open();
    tpm.extend_all_banks(7, b"another state").expect("extend");
    let record = Record::read(&mut tpm, &policy).expect("read");
    assert_eq!(
        unprovable(record.verify(&DISK, &claim)),
        Unprovable::OtherWriter
    );
}

#[test]
fn the_record_has_room_for_so_many_and_same_places_are_reused() {
    let machine = Machine::new();
    machine.key();
    let names: Vec<String> = (0..=MAX_VOLUMES).map(|n| n.to_string()).collect();
    let claim = |role, volume_key| Claim {
        role,
        uuid: ROOT,
        volume_key,
        srk: &[],
    };
    let claims: Vec<_> = names.iter().map(|name| claim(name, b"one")).collect();
    let result = machine.register(Others::Keep, &claims);
    assert!(matches!(result, Err(ProvenanceError::Full)), "{result:?}");
    let all = &claims[..MAX_VOLUMES];
    machine.register(Others::Keep, all).expect("as many as fit");
    let again: Vec<_> = names[..MAX_VOLUMES]
        .iter()
        .map(|name| claim(name, b"two"))
        .collect();
    let record = machine.register(Others::Keep, &again).expect("again");
    assert_eq!(record.verify(&DISK, &again[3]), Verdict::Ours(Proof::Image));
    assert_eq!(foreign(record.verify(&DISK, &all[3])), Foreign::Replaced);
}

#[test]
fn asking_the_record_costs_two_commands_a_boot() {
    let machine = Machine::new();
    let (root, home) = (machine.key(), machine.key());
    let claims = [root.claim("root", ROOT), home.claim("home", HOME)];
    let count = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&count);
    let mut tpm = machine.through(move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let signatures = Some(&machine.signatures);
    // What every boot does anyway: session, storage root key, the image's signature.
    SealedKey::new(&mut tpm, &machine.policy, signatures).expect("seal");
    let spent = || count.swap(0, Ordering::Relaxed);
    spent();

    let register = |tpm: &mut Tpm| {
        register(
            tpm,
            &machine.policy,
            signatures,
            &DISK,
            Others::Keep,
            &claims,
        )
        .expect("register")
    };
    let started = Instant::now();
    register(&mut tpm);
    let first = spent();
    println!(
        "first registration: {first} commands, {:?}",
        started.elapsed()
    );
    assert!(first <= 14, "{first} commands");
    register(&mut tpm);
    assert_eq!(spent(), 2, "what is written already is not written again");

    let started = Instant::now();
    let record = Record::read(&mut tpm, &machine.policy).expect("read");
    for claim in &claims {
        assert_eq!(record.verify(&DISK, claim), Verdict::Ours(Proof::Image));
    }
    println!("reading: {:?}", started.elapsed());
    assert_eq!(spent(), 2);
}

/// The booted system's root has a signature for his phase and the owner's authorisation. He is one PCR short.
#[test]
fn root_of_the_booted_system_cannot_register() {
    let signer = Signer::new();
    let machine = Machine::of(&signer);
    let key = machine.key();
    machine
        .register(Others::Keep, &[key.claim("root", ROOT)])
        .expect("register");
    let (handle, _) = machine.index();
    write_as_root(&machine, &signer, &handle)
        .expect("before a volume is opened, the policy can be met");
    let mut tpm = machine.swtpm.open();
    tpm.extend_all_banks(15, b"a volume key").expect("extend");
    drop(tpm);
    let error = write_as_root(&machine, &signer, &handle).expect_err("afterwards it cannot");
    assert!(
        error.contains("0x99D") || error.contains("policy"),
        "{error}"
    );
}

/// PolicyPCR, PolicyAuthorize with a genuine signature, PolicyPCR, NV_Write: all with other people's tools.
fn write_as_root(machine: &Machine, signer: &Signer, handle: &str) -> Result<String, String> {
    let dir = TempDir::new().expect("directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let mut tpm = machine.swtpm.open();
    let value = tpm.pcr_read(Bank::Sha256, 11).expect("read").expect("bank");
    drop(tpm);
    let approved = policy_pcr([0; 32], Pcrs::one(11), &[value]);
    std::fs::write(path("approved"), approved).expect("write");
    std::fs::write(path("data"), [0x66; 480]).expect("write");
    std::fs::write(path("key.pem"), signer.pem()).expect("write");
    let json: serde_json::Value = serde_json::from_str(&signer.sign(&[approved])).expect("JSON");
    let signature = json["sha256"][0]["sig"].as_str().expect("signature");
    let signature = STANDARD.decode(signature).expect("base64");
    std::fs::write(path("signature"), signature).expect("write");
    let d = dir.path().display();
    for step in [
        format!("tpm2_startauthsession --policy-session -S {d}/session"),
        format!("tpm2_policypcr -S {d}/session -l sha256:11"),
        format!("tpm2_loadexternal -C o -G rsa -u {d}/key.pem -c {d}/key -n {d}/name"),
        // There is no resource manager in front of this TPM.
        "tpm2_flushcontext -t".to_owned(),
        format!(
            "tpm2_verifysignature -c {d}/key -g sha256 -m {d}/approved -s {d}/signature -f rsassa -t {d}/ticket"
        ),
        "tpm2_flushcontext -t".to_owned(),
        format!("tpm2_policyauthorize -S {d}/session -i {d}/approved -n {d}/name -t {d}/ticket"),
        format!("tpm2_policypcr -S {d}/session -l sha256:15"),
    ] {
        machine.step(&step);
    }
    let auth = format!("session:{d}/session");
    let write = ["-C", handle, "-P", &auth, "-i", &path("data"), handle];
    let result = machine.tool("tpm2_nvwrite", &write);
    machine
        .tool("tpm2_flushcontext", &[&path("session")])
        .expect("flush");
    result
}

const NV_READ: u32 = 0x14e;
const NV_READ_PUBLIC: u32 = 0x169;

#[test]
fn an_answer_changed_on_the_bus_is_no_verdict() {
    let machine = Machine::new();
    let key = machine.key();
    let record = machine
        .register(Others::Keep, &[key.claim("root", ROOT)])
        .expect("register");
    let through =
        |change: fn(u32, &mut [u8])| Record::read(&mut machine.through(change), &machine.policy);
    assert_eq!(through(|_, _| ()).expect("left alone"), record);
    // Handle size, parameter size and length come before the data.
    let changed = through(|code, answer| {
        if code == NV_READ {
            answer[16 + 8] ^= 1;
        }
    });
    assert!(read_failed(&changed), "{changed:?}");
}

#[test]
fn a_planted_record_does_not_pass_with_the_genuine_ones_public_area() {
    let machine = Machine::new();
    let key = machine.key();
    let claim = key.claim("root", ROOT);
    let genuine = machine.register(Others::Keep, &[claim]).expect("register");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let recorder = Arc::clone(&seen);
    let mut tpm = machine.through(move |code, answer| {
        if code == NV_READ_PUBLIC {
            *recorder.lock().expect("lock") = answer.to_vec();
        }
    });
    let record = Record::read(&mut tpm, &machine.policy).expect("read");
    assert_eq!(record, genuine);
    drop(tpm);

    let dir = TempDir::new().expect("directory");
    let (policy, data) = (dir.path().join("policy"), dir.path().join("data"));
    let (handle, digest) = machine.index();
    std::fs::write(&policy, digest).expect("write");
    std::fs::write(&data, [0x66; 480]).expect("write");
    let (policy, data) = (policy.display(), data.display());
    for step in [
        format!("tpm2_nvundefine -C o {handle}"),
        format!("tpm2_nvdefine -C o -s 480 -a {PLANTED} -L {policy} {handle}"),
        format!("tpm2_nvwrite -C {handle} -i {data} {handle}"),
    ] {
        machine.step(&step);
    }
    let public = seen.lock().expect("lock").clone();
    assert_eq!(
        public.get(..2),
        Some(&[0x80, 0x01][..]),
        "an answer was seen"
    );
    let mut tpm = machine.through(move |code, answer| {
        if code == NV_READ_PUBLIC {
            answer.copy_from_slice(&public);
        }
    });
    let read = Record::read(&mut tpm, &machine.policy);
    assert!(read_failed(&read), "{read:?}");
}

fn read_failed(read: &Result<Record, ProvenanceError>) -> bool {
    matches!(
        read,
        Err(ProvenanceError::Read(TpmError::Command {
            command: "NV_Read",
            ..
        }))
    )
}

/// A TPM between the software TPM and the test: forwards, and lets `change` at the answers of each command code.
fn interposer(tpm: u16, mut change: impl FnMut(u32, &mut [u8]) + Send + 'static) -> u16 {
    let (command, control) = loop {
        let command = TcpListener::bind("127.0.0.1:0").expect("a port");
        let next = command.local_addr().expect("address").port() + 1;
        if let Ok(control) = TcpListener::bind(("127.0.0.1", next)) {
            break (command, control);
        }
    };
    let port = command.local_addr().expect("address").port();
    // The threads end with the connections, or with the program.
    std::thread::spawn(move || -> io::Result<()> {
        loop {
            let (here, _) = control.accept()?;
            let there = TcpStream::connect(("127.0.0.1", tpm + 1))?;
            let (mut from, mut to) = (there.try_clone()?, here.try_clone()?);
            std::thread::spawn(move || io::copy(&mut from, &mut to));
            let (mut from, mut to) = (here, there);
            std::thread::spawn(move || -> io::Result<()> {
                io::copy(&mut from, &mut to)?;
                to.shutdown(std::net::Shutdown::Write)
            });
        }
    });
    std::thread::spawn(move || -> io::Result<()> {
        loop {
            let (mut here, _) = command.accept()?;
            let mut there = TcpStream::connect(("127.0.0.1", tpm))?;
            // A connection may be for one command or for many.
            while let Ok(request) = packet(&mut here) {
                let code = u32::from_be_bytes([request[6], request[7], request[8], request[9]]);
                there.write_all(&request)?;
                let mut answer = packet(&mut there)?;
                change(code, &mut answer);
                here.write_all(&answer)?;
            }
        }
    });
    port
}

/// A command or an answer: tag, size of the whole, code, and the rest.
fn packet(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = [0; 10];
    stream.read_exact(&mut head)?;
    let size = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
    let rest = usize::try_from(size).expect("size") - head.len();
    let mut bytes = vec![0; rest];
    stream.read_exact(&mut bytes)?;
    Ok([head.to_vec(), bytes].concat())
}
