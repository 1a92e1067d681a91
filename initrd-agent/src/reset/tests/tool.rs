//! `initrd-agent reset` over a root directory: words and exit codes as systemd-factory-reset(8) has them.

use super::super::command::{CommandError, run};
use super::super::variable::{LEGACY, REQUEST, Reading, Store, decode, encode};
use super::variables::{Flag, efivars};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

const NOW: &str = "5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a\n";

fn machine() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for sub in ["proc/sys/kernel/random", "usr/lib", "run/systemd"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::write(root.join("proc/sys/kernel/random/boot_id"), NOW).unwrap();
    fs::write(root.join("proc/cmdline"), "quiet\n").unwrap();
    fs::write(
        root.join("usr/lib/os-release"),
        "ID=debian\nVERSION_ID=\"13\"\n",
    )
    .unwrap();
    efivars(root);
    dir
}

fn call(root: &Path, words: &[&str]) -> Result<(u8, String), CommandError> {
    let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
    arguments.extend(["--root".into(), root.into()]);
    let mut out = Vec::new();
    let code = run(&arguments, &mut out)?;
    Ok((code, String::from_utf8(out).unwrap()))
}

fn status(root: &Path) -> (u8, String) {
    call(root, &["status"]).unwrap()
}

fn is(code: u8, word: &str) -> (u8, String) {
    (code, format!("{word}\n"))
}

#[test]
fn request_status_cancel() {
    let dir = machine();
    let root = dir.path();
    let store = Store::below(root);
    assert_eq!(status(root), is(0, "unspecified"));
    assert!(
        matches!(call(root, &["request"]), Err(CommandError::Usage(_))),
        "nobody to ask"
    );
    assert_eq!(store.read(REQUEST), Reading::Absent);
    call(root, &["request", "--yes"]).unwrap();
    let Reading::Value(value) = store.read(REQUEST) else {
        panic!("no variable")
    };
    assert_eq!(
        decode(&value).unwrap(),
        r#"{"osReleaseId":"debian","osReleaseVersionId":"13","bootId":"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"}"#
    );
    assert_eq!(status(root), is(11, "pending"));
    assert!(
        call(root, &["request", "--yes"])
            .unwrap()
            .1
            .contains("already")
    );
    assert_eq!(
        call(root, &["status", "--quiet"]).unwrap(),
        (11, String::new())
    );
    assert!(call(root, &["cancel"]).unwrap().1.contains("cancelled"));
    assert_eq!(status(root), is(0, "unspecified"));
    assert!(
        call(root, &["cancel"])
            .unwrap()
            .1
            .contains("No factory reset")
    );
}

#[test]
fn the_other_states() {
    let dir = machine();
    let root = dir.path();
    let store = Store::below(root);
    store.write(LEGACY, "yes").unwrap();
    assert_eq!(status(root), is(11, "pending"));
    call(root, &["cancel"]).unwrap();
    store
        .write(
            REQUEST,
            r#"{"osReleaseId":"debian","bootId":"11111111111111111111111111111111"}"#,
        )
        .unwrap();
    assert_eq!(status(root), is(10, "on"));
    for verb in ["request", "cancel"] {
        assert!(matches!(
            call(root, &[verb, "--yes"]),
            Err(CommandError::State(_))
        ));
    }
    fs::write(root.join("proc/cmdline"), "systemd.factory_reset=0").unwrap();
    assert_eq!(status(root), is(0, "off"));
    fs::write(root.join("proc/cmdline"), "systemd.factory_reset").unwrap();
    assert_eq!(status(root), is(10, "on"));
    fs::write(root.join("run/systemd/factory-reset-complete"), "").unwrap();
    assert_eq!(status(root), is(0, "complete"));
    // A variable that could not be deleted is replaced by a new request, and can be cancelled.
    call(root, &["request", "--yes"]).unwrap();
    call(root, &["cancel"]).unwrap();
    assert_eq!(store.read(REQUEST), Reading::Absent);
}

#[test]
fn refusals_have_a_reason() {
    let dir = machine();
    let root = dir.path();
    let store = Store::below(root);
    store.write(LEGACY, "yes").unwrap();
    let directory = efivars(root);
    let flag = Flag::set(&directory);
    assert!(matches!(
        call(root, &["cancel"]),
        Err(CommandError::Delete { name: LEGACY, .. })
    ));
    drop(flag);
    fs::remove_file(store.path(LEGACY)).unwrap();
    let flag = Flag::set(&directory);
    assert!(matches!(
        call(root, &["request", "--yes"]),
        Err(CommandError::Write(_))
    ));
    drop(flag);
    fs::remove_dir_all(root.join("sys")).unwrap();
    assert_eq!(status(root), is(0, "unspecified"));
    assert!(matches!(
        call(root, &["request", "--yes"]),
        Err(CommandError::Write(_))
    ));
    efivars(root);
    fs::write(root.join("usr/lib/os-release"), "NAME=x\n").unwrap();
    assert!(matches!(
        call(root, &["request", "--yes"]),
        Err(CommandError::Compose(_))
    ));
    for words in [
        &[][..],
        &["now"],
        &["status", "cancel"],
        &["status", "--force"],
    ] {
        let error = call(root, words).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words:?}");
    }
    assert!(encode("").len() == 2);
}
