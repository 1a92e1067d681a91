#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::process::Command;

use super::*;

const UUID: &str = "70e624a3-caca-4b82-b656-2e7168b70ff1";

/// Makes `format` on a sparse file; answers what blkid says of it.
fn made(
    format: &Format,
    mib: u64,
    label: &str,
    tree: Option<&Path>,
) -> Result<String, FormatError> {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("device");
    std::fs::File::create(&device)
        .unwrap()
        .set_len(mib << 20)
        .unwrap();
    let uuid = Guid::parse(UUID).unwrap();
    let request = MkfsRequest {
        format,
        device: &device,
        label,
        uuid,
        sector_size: 4096,
        discard: false,
        tree,
    };
    make(&request, &Programs::default(), Duration::from_secs(60))?;
    let out = Command::new("/usr/sbin/blkid")
        .arg("-p")
        .arg(&device)
        .output()
        .unwrap();
    Ok(String::from_utf8(out.stdout).unwrap())
}

#[test]
fn file_systems_have_label_and_uuid() {
    for (format, mib) in [(Format::Ext4, 32), (Format::Btrfs, 256), (Format::Swap, 1)] {
        let said = made(&format, mib, "root-x86-64", None).unwrap();
        assert!(
            said.contains(&format!("TYPE=\"{}\"", format.name())),
            "{said}"
        );
        assert!(
            said.contains("LABEL=\"root-x86-64\"") && said.contains(&format!("UUID=\"{UUID}\"")),
            "{said}"
        );
    }
    let said = made(&Format::Vfat, 300, "esp", None).unwrap();
    assert!(
        said.contains("LABEL=\"ESP\"") && said.contains("UUID=\"70E6-24A3\""),
        "{said}"
    );
}

#[test]
fn failures_say_what_the_program_said() {
    let error = made(&Format::Btrfs, 1, "x", None).unwrap_err();
    assert!(error.to_string().contains("too small"), "{error}");
    assert!(matches!(
        made(&Format::Swap, 0, "x", None),
        Err(FormatError::TooSmall { len: 0, .. })
    ));
    let missing = Programs::new(vec!["/nonexistent".into()])
        .require(&Format::Ext4)
        .unwrap_err();
    assert_eq!(missing.to_string(), "no mkfs.ext4 in /nonexistent");
    assert!(
        Programs::default()
            .require(&Format::Other("reiserfs".into()))
            .is_err()
    );
}

#[test]
fn a_program_that_hangs_is_killed() {
    let deadline = Duration::from_millis(50);
    let arguments = ["-c".into(), "echo working >&2; exec sleep 60".into()];
    let error = run::run(
        Path::new("/bin/sh"),
        &arguments,
        &[],
        Path::new("/dev/null"),
        deadline,
    )
    .unwrap_err();
    assert!(
        matches!(&error, FormatError::Deadline { stderr, .. } if stderr == "working"),
        "{error}"
    );
}

#[test]
fn labels_are_cut_at_characters() {
    assert_eq!(cut("größe", 3), "gr");
    assert_eq!(cut("größe", 4), "grö");
    assert_eq!(
        vfat_label("a.b/ü long label"),
        "A_B/ LONG L".replace('/', "_")
    );
    assert_eq!(vfat_label(""), "NO NAME");
}
