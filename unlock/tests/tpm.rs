//! Sealing, unsealing and measuring against a real TPM 2.0 implementation.

mod common;

use common::{Signer, Swtpm};
use unlock::tpm::policy::policy_pcr;
use unlock::tpm::{Bank, PcrPolicy, Pcrs, PublicKey, Secret, Signatures, Tcti, Tpm, TpmError};

fn value(tpm: &mut Tpm, pcr: u8) -> Vec<u8> {
    tpm.pcr_read(Bank::Sha256, pcr)
        .expect("read")
        .expect("SHA-256 bank")
}

/// The policy digest the image's maker would have signed for the TPM's present PCR 11.
fn predicted(tpm: &mut Tpm) -> [u8; 32] {
    let value = value(tpm, 11);
    policy_pcr([0; 32], Pcrs::one(11), &[value])
}

#[test]
fn tells_who_it_is() {
    let swtpm = Swtpm::new();
    let properties = swtpm.open().properties().expect("properties");
    assert_eq!(properties.manufacturer, "IBM");
    assert!(properties.vendor.contains("SW"), "{properties:?}");
}

#[test]
fn an_absent_tpm_is_named() {
    let error = Tpm::open(&Tcti::Device("/nonexistent/tpmrm0".into()))
        .err()
        .expect("no such device");
    assert!(
        matches!(&error, TpmError::Absent { tcti, .. } if tcti == "/nonexistent/tpmrm0"),
        "{error:?}"
    );
}

#[test]
fn every_bank_is_extended_with_its_own_digest() {
    let swtpm = Swtpm::new();
    let mut tpm = swtpm.open();
    let banks = tpm.banks(11).expect("banks");
    assert!(
        banks.contains(&Bank::Sha256) && banks.len() >= 2,
        "{banks:?}"
    );
    let extended = tpm.extend_all_banks(11, b"enter-initrd").expect("extend");
    assert_eq!(
        extended.iter().map(|(bank, _)| *bank).collect::<Vec<_>>(),
        banks
    );
    for bank in banks {
        let old = vec![0; bank.digest(b"").len()];
        let expected = bank.digest(&[old, bank.digest(b"enter-initrd")].concat());
        assert_eq!(
            tpm.pcr_read(bank, 11).expect("read"),
            Some(expected),
            "{bank:?}"
        );
    }
    assert_eq!(
        hex::encode(value(&mut tpm, 11)),
        "d15b0e8e244e65c40f024e95773f2347ce4ef3ffe6b597c9a14b50bbab6df319",
        "the value that systemd-measure predicts for this phase"
    );
}

#[test]
fn a_literal_policy_opens_in_the_same_state_only() {
    let mut swtpm = Swtpm::new();
    let mut tpm = swtpm.open();
    tpm.extend_all_banks(7, b"secure boot state")
        .expect("extend");
    let secret = Secret::random().expect("random");
    let sealed = tpm
        .seal(&secret, &PcrPolicy::literal(Pcrs::one(7)))
        .expect("seal");
    assert!(tpm.unseal(&sealed, None).expect("unseal").equals(&secret));
    assert!(
        tpm.unseal(&sealed, None)
            .expect("unseal again")
            .equals(&secret)
    );

    tpm.extend_all_banks(7, b"something else").expect("extend");
    let error = tpm.unseal(&sealed, None).err().expect("another state");
    assert!(
        matches!(&error, TpmError::PolicyMismatch { reason } if reason.contains("PCR 7")),
        "{error:?}"
    );
    drop(tpm);

    swtpm.reboot();
    let mut tpm = swtpm.open();
    tpm.extend_all_banks(7, b"secure boot state")
        .expect("extend");
    assert!(
        tpm.unseal(&sealed, None)
            .expect("unseal after a reboot")
            .equals(&secret)
    );
}

#[test]
fn a_signed_policy_opens_in_every_signed_state() {
    let mut swtpm = Swtpm::new();
    let signer = Signer::new();
    let policy = PcrPolicy::signed(PublicKey::from_pem(&signer.pem()).expect("key"));
    let mut tpm = swtpm.open();
    tpm.extend_all_banks(11, b"kernel 1").expect("extend");
    let one = predicted(&mut tpm);
    let secret = Secret::random().expect("random");
    let sealed = tpm.seal(&secret, &policy).expect("seal");

    let first = Signatures::from_json(signer.sign(&[one]).as_bytes()).expect("signatures");
    assert!(
        tpm.unseal(&sealed, Some(&first))
            .expect("unseal")
            .equals(&secret)
    );
    drop(tpm);

    // An updated image: other value, signed by the same key.
    swtpm.reboot();
    let mut tpm = swtpm.open();
    tpm.extend_all_banks(11, b"kernel 2").expect("extend");
    let two = predicted(&mut tpm);
    let error = tpm
        .unseal(&sealed, Some(&first))
        .err()
        .expect("not signed for this state");
    assert!(
        matches!(&error, TpmError::PolicyMismatch { reason } if reason.contains("signature")),
        "{error:?}"
    );
    let second = Signatures::from_json(signer.sign(&[one, two]).as_bytes()).expect("signatures");
    assert!(
        tpm.unseal(&sealed, Some(&second))
            .expect("unseal")
            .equals(&secret)
    );

    // leave-initrd closes it.
    tpm.extend_all_banks(11, b"leave-initrd").expect("extend");
    assert!(matches!(
        tpm.unseal(&sealed, Some(&second)),
        Err(TpmError::PolicyMismatch { .. })
    ));
    assert!(matches!(
        tpm.unseal(&sealed, None),
        Err(TpmError::PolicyMismatch { .. })
    ));
}

#[test]
fn signatures_of_another_key_or_damaged_ones_open_nothing() {
    let swtpm = Swtpm::new();
    let (signer, stranger) = (Signer::new(), Signer::new());
    let mut tpm = swtpm.open();
    tpm.extend_all_banks(11, b"kernel").expect("extend");
    let state = predicted(&mut tpm);
    let policy = PcrPolicy::signed(PublicKey::from_pem(&signer.pem()).expect("key"));
    let sealed = tpm
        .seal(&Secret::random().expect("random"), &policy)
        .expect("seal");

    let strange = stranger.sign(&[state]);
    let signatures = Signatures::from_json(strange.as_bytes()).expect("signatures");
    assert!(matches!(
        tpm.unseal(&sealed, Some(&signatures)),
        Err(TpmError::PolicyMismatch { .. })
    ));

    // The stranger's signature under the signer's fingerprint: only the TPM can tell.
    let own = signer.sign(&[state]);
    let fingerprint = |json: &str| json.split('"').nth(7).expect("fingerprint").to_owned();
    let forged = strange.replace(&fingerprint(&strange), &fingerprint(&own));
    assert_ne!(forged, strange);
    let signatures = Signatures::from_json(forged.as_bytes()).expect("signatures");
    let error = tpm
        .unseal(&sealed, Some(&signatures))
        .err()
        .expect("forged");
    assert!(
        matches!(&error, TpmError::PolicyMismatch { reason } if reason.contains("wrong")),
        "{error:?}"
    );

    let signatures = Signatures::from_json(own.as_bytes()).expect("signatures");
    tpm.unseal(&sealed, Some(&signatures))
        .expect("the connection still works after refusals");
}

#[test]
fn a_stolen_key_in_the_policy_is_noticed_before_the_tpm_is_asked() {
    let swtpm = Swtpm::new();
    let (signer, stranger) = (Signer::new(), Signer::new());
    let mut tpm = swtpm.open();
    tpm.extend_all_banks(11, b"kernel").expect("extend");
    let state = predicted(&mut tpm);
    let policy = PcrPolicy::signed(PublicKey::from_pem(&signer.pem()).expect("key"));
    let mut sealed = tpm
        .seal(&Secret::random().expect("random"), &policy)
        .expect("seal");
    sealed.policy = PcrPolicy::signed(PublicKey::from_pem(&stranger.pem()).expect("key"));
    let signatures = Signatures::from_json(stranger.sign(&[state]).as_bytes()).expect("signatures");
    let error = tpm
        .unseal(&sealed, Some(&signatures))
        .err()
        .expect("another key");
    assert!(
        matches!(&error, TpmError::PolicyMismatch { reason } if reason.contains("public key")),
        "{error:?}"
    );
}

#[test]
fn both_policies_together() {
    let swtpm = Swtpm::new();
    let signer = Signer::new();
    let mut tpm = swtpm.open();
    tpm.extend_all_banks(11, b"kernel").expect("extend");
    tpm.extend_all_banks(7, b"state").expect("extend");
    let state = predicted(&mut tpm);
    let mut policy = PcrPolicy::signed(PublicKey::from_pem(&signer.pem()).expect("key"));
    policy.literal = Pcrs::one(7);
    let secret = Secret::random().expect("random");
    let sealed = tpm.seal(&secret, &policy).expect("seal");
    let signatures = Signatures::from_json(signer.sign(&[state]).as_bytes()).expect("signatures");
    assert!(
        tpm.unseal(&sealed, Some(&signatures))
            .expect("unseal")
            .equals(&secret)
    );
    tpm.extend_all_banks(7, b"more").expect("extend");
    assert!(matches!(
        tpm.unseal(&sealed, Some(&signatures)),
        Err(TpmError::PolicyMismatch { .. })
    ));
}

#[test]
fn what_nobody_measures_is_not_sealed_to() {
    let swtpm = Swtpm::new();
    let mut tpm = swtpm.open();
    let secret = Secret::random().expect("random");
    let error = tpm
        .seal(&secret, &PcrPolicy::literal(Pcrs::one(7)))
        .expect_err("PCR 7 is zero");
    assert!(
        matches!(error, TpmError::Unextended { pcr: 7, .. }),
        "{error:?}"
    );
    let error = tpm
        .seal(&secret, &PcrPolicy::literal(Pcrs::one(20)))
        .expect_err("PCR 20 is all ones");
    assert!(
        matches!(error, TpmError::Unextended { pcr: 20, .. }),
        "{error:?}"
    );
    assert!(
        tpm.seal(&secret, &PcrPolicy::literal(Pcrs::NONE)).is_err(),
        "an empty policy"
    );
}

#[test]
fn another_tpm_is_named() {
    let (first, second) = (Swtpm::new(), Swtpm::new());
    let policy = PcrPolicy::literal(Pcrs::one(7));
    let secret = Secret::random().expect("random");
    let (mut tpm, mut other) = (first.open(), second.open());
    for tpm in [&mut tpm, &mut other] {
        tpm.extend_all_banks(7, b"state").expect("extend");
    }
    let sealed = tpm.seal(&secret, &policy).expect("seal");
    assert!(
        matches!(other.unseal(&sealed, None), Err(TpmError::OtherTpm { .. })),
        "without a storage root key"
    );
    other.seal(&secret, &policy).expect("seal");
    assert!(
        matches!(other.unseal(&sealed, None), Err(TpmError::OtherTpm { .. })),
        "with one of its own"
    );
}

/// Premise: other tools find the storage root key we make, with the template they would have used.
#[test]
fn the_storage_root_key_is_the_standard_one() {
    let swtpm = Swtpm::new();
    let mut tpm = swtpm.open();
    tpm.extend_all_banks(7, b"state").expect("extend");
    tpm.seal(
        &Secret::random().expect("random"),
        &PcrPolicy::literal(Pcrs::one(7)),
    )
    .expect("seal");
    drop(tpm);
    let Tcti::Swtpm { port } = swtpm.tcti() else {
        panic!("a software TPM")
    };
    let tcti = format!("swtpm:host=127.0.0.1,port={port}");
    let public = common::run("tpm2_readpublic", &["-T", &tcti, "-c", "0x81000001"]);
    let text = String::from_utf8(public).expect("YAML");
    assert!(
        text.contains(
            "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt"
        ),
        "{text}"
    );
    assert!(text.contains("NIST p256") || text.contains("ecc"), "{text}");
}
