#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::PipeWriter;

use super::*;

fn console() -> (PipeWriter, Console, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let console = Console::start(reader, &dir.path().join("console.log"), None).unwrap();
    (writer, console, dir)
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn markers_are_found_in_order_and_once() {
    let (mut guest, mut console, _dir) = console();
    guest
        .write_all(b"one\r\n\x1b[2J\x1b[01;1Htwo stage=usr\r\nthree\n")
        .unwrap();
    let seen = console
        .wait_for(&["stage=devices", "stage=usr"], SOON)
        .unwrap();
    assert_eq!(
        seen,
        Seen {
            which: 1,
            line: "two stage=usr".into()
        }
    );
    let again = console
        .wait_for(&["one", "two"], Duration::from_millis(50))
        .unwrap_err();
    assert!(
        matches!(again, Error::Timeout { .. }),
        "a judged line came twice: {again}"
    );
}

#[test]
fn a_timeout_shows_the_last_forty_lines_and_the_log() {
    let (mut guest, mut console, dir) = console();
    for line in 0..100 {
        writeln!(guest, "line {line}.").unwrap();
    }
    guest.write_all(b"unfinished").unwrap();
    console.wait_for(&["line 99."], SOON).unwrap();
    let text = console
        .wait_for(&["never"], Duration::from_millis(50))
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("line 60.") && text.contains("unfinished"),
        "{text}"
    );
    assert!(!text.contains("line 59."), "more than forty lines: {text}");
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
}

#[test]
fn the_end_of_the_machine_is_not_a_timeout() {
    let (mut guest, mut console, _dir) = console();
    guest.write_all(b"last words").unwrap();
    drop(guest);
    let error = console.wait_for(&["handover"], SOON).unwrap_err();
    assert!(
        matches!(&error, Error::Stopped { tail, .. } if tail.contains("last words")),
        "{error}"
    );
}

#[test]
fn a_crash_is_named_unless_it_was_asked_for() {
    let (mut guest, mut console, _dir) = console();
    guest
        .write_all(b"[ 1.0] Oops: 0002 [#1]\nmore\n[ 1.1] Kernel panic - not syncing\n")
        .unwrap();
    drop(guest);
    let error = console.wait_for(&["handover"], SOON).unwrap_err();
    assert!(
        matches!(&error, Error::Crashed { line, .. } if line.contains("Oops")),
        "{error}"
    );

    let (mut guest, mut console, _dir) = self::console();
    guest
        .write_all(b"Kernel panic - not syncing: dm-verity device corrupted\n")
        .unwrap();
    assert_eq!(
        console
            .wait_for(&["x", "dm-verity device corrupted"], SOON)
            .unwrap()
            .which,
        1
    );
}

#[test]
fn a_prompt_without_line_end_is_seen_after_a_silence() {
    let (mut guest, mut console, _dir) = console();
    guest.write_all(b"hello\nRecovery key: ").unwrap();
    assert_eq!(
        console.wait_for(&["Recovery key:"], SOON).unwrap().line,
        "Recovery key: "
    );
    guest.write_all(b"\nthanks\n").unwrap();
    assert_eq!(console.wait_for(&["thanks"], SOON).unwrap().line, "thanks");
}
