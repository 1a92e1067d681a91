//! Every answer of [`decide`], and that nothing but a proper request ever says yes.

use super::super::doom::Doomed;
use super::super::identity::{Identity, Part, RequestId, executed, seed_for};
use super::super::osrelease::OsRelease;
use super::super::request::{Decision, Evidence, Source, Why, Word, compose, decide};
use super::super::variable::{Reading, encode};
use proptest::prelude::*;
use repart::Guid;

pub const BOOT: [u8; 16] = [9; 16];
const EARLIER: [u8; 16] = [8; 16];

pub fn os() -> OsRelease {
    OsRelease::parse("ID=debian\nIMAGE_ID=kiosk\nVERSION_ID=13\nIMAGE_VERSION=7\n")
}

pub fn quiet() -> Evidence {
    Evidence {
        request: Reading::Absent,
        legacy: Reading::Absent,
        word: Word::Absent,
        profile: false,
        os: os(),
        boot_id: Some(BOOT),
    }
}

fn text(text: &str) -> Reading {
    Reading::Value(encode(text))
}

fn asked(json: &str) -> Evidence {
    Evidence {
        request: text(json),
        ..quiet()
    }
}

pub fn valid() -> String {
    compose(&os(), EARLIER).unwrap()
}

fn view_of(seed: Guid) -> Vec<Identity> {
    let kind = Guid::parse("933ac7e1-2eb4-4f13-b844-0e14e2aef915").unwrap();
    vec![Identity {
        partition_type: kind,
        uuid: seed.derive(kind.bytes()),
    }]
}

#[test]
fn the_request_is_spelled_as_systemd_spells_it() {
    assert_eq!(
        valid(),
        r#"{"osReleaseId":"debian","osReleaseVersionId":"13","osReleaseImageId":"kiosk","osReleaseImageVersion":"7","bootId":"08080808080808080808080808080808"}"#
    );
    let bare = OsRelease::parse("ID=x");
    assert_eq!(
        compose(&bare, EARLIER).unwrap(),
        r#"{"osReleaseId":"x","bootId":"08080808080808080808080808080808"}"#
    );
    assert_eq!(compose(&OsRelease::default(), EARLIER), Err(Why::UnknownOs));
}

#[test]
fn a_request_of_an_earlier_boot_is_on_and_one_of_this_boot_pending() {
    let judged = decide(&asked(&valid()), None, &[]);
    assert!(matches!(
        judged.decision,
        Decision::On {
            source: Source::Request,
            ..
        }
    ));
    assert_eq!(judged.answered.len(), 1);
    assert!(judged.settles && judged.ignored.is_empty());
    let now = decide(&asked(&compose(&os(), BOOT).unwrap()), None, &[]);
    assert_eq!(now.decision, Decision::Pending);
    assert!(now.answered.is_empty() && !now.settles);
    // Dashes are allowed in a boot id, unknown fields anywhere.
    let odd = r#"{"bootId":"08080808-0808-0808-0808-080808080808","x":[1],"osReleaseId":"debian","osReleaseImageId":"kiosk"}"#;
    assert!(decide(&asked(odd), None, &[]).decision.resets().is_some());
}

#[test]
fn what_is_ignored_is_named() {
    let boot = "08080808080808080808080808080808";
    let foreign = |json: String| {
        let judged = decide(&asked(&json), None, &[]);
        assert_eq!(judged.decision, Decision::Unasked, "{json}");
        assert!(
            judged.answered.is_empty(),
            "{json}: another system's variable stays"
        );
        judged.ignored[0].why.clone()
    };
    for json in [
        format!(r#"{{"osReleaseId":"fedora","osReleaseImageId":"kiosk","bootId":"{boot}"}}"#),
        format!(r#"{{"osReleaseId":"debian","osReleaseImageId":"other","bootId":"{boot}"}}"#),
        format!(r#"{{"osReleaseId":"debian","bootId":"{boot}"}}"#),
    ] {
        assert!(matches!(foreign(json), Why::ForeignOs { .. }));
    }
    for json in [
        String::new(),
        "yes".to_owned(),
        "[]".to_owned(),
        "[".repeat(4000),
        r#"{"osReleaseId":"debian","osReleaseImageId":"kiosk"}"#.to_owned(),
        format!(r#"{{"osReleaseImageId":"kiosk","bootId":"{boot}"}}"#),
        format!(r#"{{"osReleaseId":1,"osReleaseImageId":"kiosk","bootId":"{boot}"}}"#),
        r#"{"osReleaseId":"debian","osReleaseImageId":"kiosk","bootId":"12"}"#.to_owned(),
    ] {
        assert!(matches!(foreign(json), Why::Garbage(_)));
    }
    for (reading, why) in [
        (Reading::Oversized, Why::Oversized),
        (Reading::Volatile, Why::Volatile),
        (Reading::Truncated, Why::Garbage("no value".to_owned())),
        (
            Reading::Unreadable("x".to_owned()),
            Why::Unreadable("x".to_owned()),
        ),
        (
            Reading::Value(vec![b'{', b'}', 0]),
            Why::Garbage("not UTF-16 text".to_owned()),
        ),
    ] {
        for evidence in [
            Evidence {
                request: reading.clone(),
                ..quiet()
            },
            Evidence {
                legacy: reading.clone(),
                ..quiet()
            },
        ] {
            let judged = decide(&evidence, None, &[]);
            assert_eq!(judged.decision, Decision::Unasked);
            assert_eq!(judged.ignored[0].why, why);
        }
    }
    let nameless = Evidence {
        os: OsRelease::default(),
        ..asked(&valid())
    };
    assert_eq!(decide(&nameless, None, &[]).ignored[0].why, Why::UnknownOs);
    let timeless = Evidence {
        boot_id: None,
        ..asked(&valid())
    };
    assert_eq!(
        decide(&timeless, None, &[]).ignored[0].why,
        Why::UnknownBoot
    );
}

#[test]
fn the_legacy_variable_is_a_boolean() {
    for (value, on, named) in [
        ("yes\0", true, 0),
        ("1", true, 0),
        ("no\0", false, 0),
        ("maybe", false, 1),
    ] {
        let judged = decide(
            &Evidence {
                legacy: text(value.trim_end_matches('\0')),
                ..quiet()
            },
            None,
            &[],
        );
        assert_eq!(judged.decision.resets().is_some(), on, "{value}");
        assert_eq!(judged.ignored.len(), named, "{value}");
    }
}

#[test]
fn the_command_line_beats_the_variables_both_ways() {
    let off = decide(
        &Evidence {
            word: Word::Off,
            ..asked(&valid())
        },
        None,
        &[],
    );
    assert_eq!(off.decision, Decision::Off);
    assert!(
        off.answered.is_empty(),
        "the request stays for a boot without the option"
    );
    let garbled = decide(
        &Evidence {
            word: Word::Garbage("x".to_owned()),
            ..asked(&valid())
        },
        None,
        &[],
    );
    assert_eq!(garbled.decision, Decision::Off);
    assert_eq!(garbled.ignored[0].source, Source::CommandLine);
    let on = decide(
        &Evidence {
            word: Word::On,
            ..quiet()
        },
        None,
        &[],
    );
    assert!(matches!(
        on.decision,
        Decision::On {
            source: Source::CommandLine,
            ..
        }
    ));
    // One reset answers all requests there are: a variable behind it must not fire at the next boot.
    let both = decide(
        &Evidence {
            word: Word::On,
            ..asked(&valid())
        },
        None,
        &[],
    );
    assert_eq!(both.answered.len(), 1);
    assert_eq!(
        both.decision.resets(),
        decide(&asked(&valid()), None, &[]).decision.resets()
    );
}

#[test]
fn a_profile_asks_through_its_command_line_only() {
    let bare = decide(
        &Evidence {
            profile: true,
            ..quiet()
        },
        None,
        &[],
    );
    assert_eq!(bare.decision, Decision::Unasked);
    assert_eq!(bare.ignored[0].why, Why::NoOption);
    let full = decide(
        &Evidence {
            profile: true,
            word: Word::On,
            ..quiet()
        },
        None,
        &[],
    );
    assert!(matches!(
        full.decision,
        Decision::On {
            source: Source::Profile,
            ..
        }
    ));
    assert!(full.ignored.is_empty());
}

#[test]
fn a_begun_reset_is_finished_whatever_is_asked() {
    let begun = Doomed {
        id: RequestId::of(&[Part::Boot(EARLIER)]),
        numbers: vec![2],
    };
    for word in [
        Word::Absent,
        Word::On,
        Word::Off,
        Word::Garbage("x".to_owned()),
    ] {
        let judged = decide(&Evidence { word, ..quiet() }, Some(&begun), &[]);
        assert_eq!(judged.decision, Decision::Resume { id: begun.id });
    }
}

#[test]
fn an_executed_request_is_ignored_and_another_one_is_not() {
    let part = Part::Request(encode(&valid()));
    let first = seed_for(RequestId::of(std::slice::from_ref(&part)), &[]);
    let judged = decide(&asked(&valid()), None, &view_of(first));
    assert_eq!(judged.decision, Decision::Unasked);
    assert_eq!(judged.ignored[0].why, Why::Executed);
    assert_eq!(
        judged.answered,
        std::slice::from_ref(&part),
        "tried to be deleted again"
    );
    assert!(judged.settles, "the booted systemd would obey it");
    let newer = asked(&compose(&os(), [7; 16]).unwrap());
    assert!(
        decide(&newer, None, &view_of(first))
            .decision
            .resets()
            .is_some()
    );
    // The same identity again gets another seed, so that no UUID comes back.
    let id = RequestId::of(std::slice::from_ref(&part));
    let second = seed_for(id, &view_of(first));
    assert_ne!(second, first);
    assert_eq!(
        executed(std::slice::from_ref(&part), &view_of(second)),
        [part]
    );
}

#[test]
fn requests_answered_together_are_remembered_together_and_apart_from_new_ones() {
    let legacy = Part::Legacy(encode("1"));
    let request = Part::Request(encode(&valid()));
    let both = Evidence {
        legacy: text("1"),
        ..asked(&valid())
    };
    let stuck = view_of(seed_for(
        RequestId::of(&[legacy.clone(), request.clone()]),
        &[],
    ));
    assert_eq!(decide(&both, None, &stuck).decision, Decision::Unasked);
    let only_legacy = view_of(seed_for(RequestId::of(std::slice::from_ref(&legacy)), &[]));
    let fresh = decide(&both, None, &only_legacy);
    assert!(matches!(
        fresh.decision,
        Decision::On {
            source: Source::Request,
            ..
        }
    ));
    assert_eq!(fresh.answered.len(), 2);
    // Begun under an identity that a later FactoryReset=1 does not share.
    let alone = decide(
        &Evidence {
            legacy: text("1"),
            ..quiet()
        },
        None,
        &[],
    );
    assert_ne!(alone.decision.resets().unwrap(), RequestId::of(&[legacy]));
}

#[test]
fn ids_survive_being_a_label() {
    let id = RequestId::of(&[Part::Boot(BOOT)]);
    assert_eq!(RequestId::parse(&id.to_string()), Some(id));
    assert_eq!(format!("factory-reset:{id}").len(), 36);
    for bad in ["", "0", &"g".repeat(22), &"A".repeat(22), &"0".repeat(23)] {
        assert_eq!(RequestId::parse(bad), None);
    }
}

fn any_reading() -> impl Strategy<Value = Reading> {
    prop_oneof![
        Just(Reading::Absent),
        Just(Reading::Oversized),
        Just(Reading::Volatile),
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Reading::Value),
        "\\PC{0,80}".prop_map(|text| Reading::Value(encode(&text))),
        r#"\{"(osReleaseId|bootId|x)":("[a-z0-9]{0,34}"|[0-9]|null|\{\})(,"(bootId|osReleaseId)":"[0-9a-f]{31,33}")?\}"#
            .prop_map(|text| Reading::Value(encode(&text))),
    ]
}

proptest! {
    #[test]
    fn garbage_is_never_on(request in any_reading(), legacy in any_reading(), profile: bool) {
        // Only what spells a boolean may count in the legacy variable; none of these requests names our image.
        let spelled = matches!(&legacy, Reading::Value(value)
            if super::super::variable::decode(value).is_some_and(|t| repart::parse_bool(&t) == Some(true)));
        let evidence = Evidence { request, legacy, profile, ..quiet() };
        let judged = decide(&evidence, None, &[]);
        prop_assert_eq!(judged.decision.resets().is_some(), spelled);
        prop_assert_eq!(decide(&evidence, None, &[]), judged);
    }

    #[test]
    fn a_valid_request_that_is_cut_or_bent_is_not_on(at in 0usize..100, flip in 1u8..=255) {
        let mut value = encode(&valid());
        let at = at * value.len() / 100;
        value[at] ^= flip;
        let judged = decide(&Evidence { request: Reading::Value(value.clone()), ..quiet() }, None, &[]);
        // A bent boot id or version is a different, valid request; nothing else may pass.
        if let Some(text) = super::super::variable::decode(&value)
            && let Ok(json) = serde_json::from_str::<serde_json::Value>(&text)
            && json["osReleaseId"] == "debian" && json["osReleaseImageId"] == "kiosk" {
            prop_assert!(judged.decision.resets().is_some() || !judged.ignored.is_empty());
        } else {
            prop_assert!(judged.decision.resets().is_none());
        }
        let mut short = encode(&valid());
        short.truncate(at);
        let judged = decide(&Evidence { request: Reading::Value(short), ..quiet() }, None, &[]);
        prop_assert!(judged.decision.resets().is_none() || at >= encode(&valid()).len() - 2);
    }

    #[test]
    fn off_and_begun_are_total(request in any_reading(), legacy in any_reading()) {
        let evidence = Evidence { request, legacy, word: Word::Off, ..quiet() };
        prop_assert_eq!(decide(&evidence, None, &[]).decision, Decision::Off);
        let begun = Doomed { id: RequestId::of(&[]), numbers: vec![1] };
        prop_assert_eq!(decide(&evidence, Some(&begun), &[]).decision, Decision::Resume { id: begun.id });
    }
}
