//! What other people's tools say about a disk once the machine is off.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::error::{Error, Result, file};
use crate::verdict::claim;

/// Type of an x86-64 root partition.
pub const ROOT: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
/// Type of an x86-64 `/usr` partition.
pub const USR: &str = "8484680c-9521-48c6-9c11-b0720656f69e";
/// Type of a swap partition.
pub const SWAP: &str = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f";
/// Type of a home partition.
pub const HOME: &str = "933ac7e1-2eb4-4f13-b844-0e14e2aef915";

/// Enough for both LUKS2 headers and their keyslots at cryptsetup's largest default.
const LUKS_AREA: u64 = 32 << 20;

/// One entry of a partition table, as `sfdisk -J` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Label.
    pub name: String,
    /// Type UUID, lower case.
    pub kind: String,
    /// Partition UUID, lower case.
    pub uuid: String,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
}

/// A call of a program that may be in a directory that only an administrator's `PATH` has.
pub(crate) fn program(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C.UTF-8");
    command
}

/// Runs a program to its end: its output, or an error with what it complained about.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ran = command.output().map_err(|source| Error::Start {
        program: program.clone(),
        source,
    })?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    let stderr = said
        .lines()
        .rev()
        .take(5)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
        .join(" / ");
    Err(Error::Program {
        program: format!("{command:?}"),
        stderr: format!("{}: {stderr}", ran.status),
    })
}

/// The partition table.
pub fn table(image: &Path) -> Result<Vec<Partition>> {
    let text = output(program("sfdisk").arg("-J").arg(image))?;
    parse_table(&text).ok_or_else(|| Error::Answer {
        program: "sfdisk -J".into(),
        answer: text,
    })
}

fn parse_table(text: &str) -> Option<Vec<Partition>> {
    let root: Value = serde_json::from_str(text).ok()?;
    let table = root.get("partitiontable")?;
    let sector = table
        .get("sectorsize")
        .and_then(Value::as_u64)
        .unwrap_or(512);
    let entries = table.get("partitions")?.as_array()?;
    entries
        .iter()
        .map(|entry| {
            Some(Partition {
                name: field(entry, "name").to_owned(),
                kind: field(entry, "type").to_lowercase(),
                uuid: field(entry, "uuid").to_lowercase(),
                offset: entry.get("start")?.as_u64()? * sector,
                size: entry.get("size")?.as_u64()? * sector,
            })
        })
        .collect()
}

/// The only partition of this type.
pub fn of_type(image: &Path, kind: &str) -> Result<Partition> {
    let table = table(image)?;
    let mut found = table.iter().filter(|entry| entry.kind == kind);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        _ => Err(Error::Unexpected(format!(
            "not one partition of type {kind} in {table:?}"
        ))),
    }
}

/// Holds if the partition is a LUKS2 volume that systemd's tools can open with the TPM: their token, on one keyslot,
/// bound to the signed values of PCR 11.
pub fn sealed(image: &Path, kind: &str) -> Result<()> {
    let partition = of_type(image, kind)?;
    let found = probe(image, &partition)?;
    let expected = [("TYPE", "crypto_LUKS"), ("VERSION", "2")];
    claim(
        expected
            .iter()
            .all(|(key, value)| found.get(*key).is_some_and(|it| it == value)),
        || format!("blkid finds {found:?} in {partition:?}"),
    )?;
    let dump = luks(image, &partition)?;
    let tokens = dump.get("tokens").and_then(Value::as_object);
    let token = tokens
        .into_iter()
        .flat_map(|all| all.values())
        .find(|token| field(token, "type") == "systemd-tpm2");
    let token = token.ok_or_else(|| Error::Unexpected(format!("no systemd-tpm2 token: {dump}")))?;
    let slots = token
        .get("keyslots")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let pcrs = token
        .get("tpm2_pubkey_pcrs")
        .map(Value::to_string)
        .unwrap_or_default();
    claim(slots == 1 && pcrs == "[11]", || {
        format!("token with {slots} keyslots, signed PCRs {pcrs}: {token}")
    })
}

fn field<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The metadata of the LUKS2 volume in a partition, as `cryptsetup luksDump` reads it.
pub fn luks(image: &Path, partition: &Partition) -> Result<Value> {
    let header = image.with_extension("luks");
    let copied = excerpt(image, partition, &header);
    let mut command = program("cryptsetup");
    let dumped = copied.and_then(|()| {
        output(
            command
                .args(["luksDump", "--dump-json-metadata"])
                .arg(&header),
        )
    });
    std::fs::remove_file(&header).map_err(file("remove", &header))?;
    let text = dumped?;
    serde_json::from_str(&text).map_err(|_| Error::Answer {
        program: "cryptsetup luksDump".into(),
        answer: text,
    })
}

/// Copies the head of a partition to a file of the partition's length, so that no loop device is needed.
fn excerpt(image: &Path, partition: &Partition, to: &Path) -> Result<()> {
    let mut source = File::open(image).map_err(file("open", image))?;
    source
        .seek(SeekFrom::Start(partition.offset))
        .map_err(file("seek in", image))?;
    let mut target = File::create(to).map_err(file("create", to))?;
    let mut head = source.take(LUKS_AREA.min(partition.size));
    std::io::copy(&mut head, &mut target).map_err(file("copy to", to))?;
    target
        .set_len(partition.size)
        .map_err(file("set the size of", to))
}

/// What `blkid` finds in a partition: `TYPE`, `UUID`, `LABEL` and so on. Empty if it finds nothing.
pub fn probe(image: &Path, partition: &Partition) -> Result<BTreeMap<String, String>> {
    let (offset, size) = (partition.offset.to_string(), partition.size.to_string());
    let mut command = program("blkid");
    command
        .args(["-p", "-o", "export", "-O", &offset, "-S", &size])
        .arg(image);
    let ran = command.output().map_err(|source| Error::Start {
        program: "blkid".into(),
        source,
    })?;
    // blkid's "nothing found" is exit status 2, with nothing said.
    if !ran.status.success() && ran.status.code() != Some(2) {
        let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
        return Err(Error::Program {
            program: format!("{command:?}"),
            stderr,
        });
    }
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect())
}

/// Holds if every partition that `before` lists is still there with the same identity, place and bytes.
pub fn kept(before: &Path, image: &Path) -> Result<()> {
    let now = table(image)?;
    for old in table(before)? {
        claim(now.contains(&old), || {
            format!("{old:?} is not what it was: {now:?}")
        })?;
        let part = (old.offset, old.size);
        claim(first_difference_in(before, image, part)?.is_none(), || {
            format!("bytes of {old:?} changed")
        })?;
    }
    Ok(())
}

/// Where two images differ first, or `None` if they are the same to the byte and in length.
pub fn first_difference(one: &Path, other: &Path) -> Result<Option<u64>> {
    first_difference_in(one, other, (0, u64::MAX))
}

/// The same for one part of both: offset and length.
fn first_difference_in(
    one: &Path,
    other: &Path,
    (start, mut length): (u64, u64),
) -> Result<Option<u64>> {
    const CHUNK: u64 = 1 << 20;
    let open = |path: &Path| {
        let mut image = File::open(path).map_err(file("open", path))?;
        image
            .seek(SeekFrom::Start(start))
            .map_err(file("seek in", path))?;
        Ok::<_, Error>(image)
    };
    let mut files = [open(one)?, open(other)?];
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut offset = start;
    loop {
        for ((source, path), buffer) in files
            .iter_mut()
            .zip([one, other])
            .zip([&mut left, &mut right])
        {
            buffer.clear();
            source
                .take(CHUNK.min(length))
                .read_to_end(buffer)
                .map_err(file("read", path))?;
        }
        if left != right {
            let common = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
            return Ok(Some(offset + common as u64));
        }
        if left.is_empty() {
            return Ok(None);
        }
        offset += left.len() as u64;
        length -= left.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use std::io::Write;
    use std::process::Stdio;

    use super::*;

    fn image(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("disk.raw");
        File::create(&path).unwrap().set_len(96 << 20).unwrap();
        let mut sfdisk = Command::new("sfdisk")
            .arg("-q")
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let script = b"label: gpt\nstart=2048, size=8192, type=swap\nsize=65536, name=data, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n";
        sfdisk.stdin.take().unwrap().write_all(script).unwrap();
        assert!(sfdisk.wait().unwrap().success());
        path
    }

    #[test]
    fn tools_answers_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(dir.path());
        let root = of_type(&path, ROOT).unwrap();
        assert_eq!(
            (root.size, root.uuid.len(), root.name.as_str()),
            (32 << 20, 36, "data")
        );
        assert!(probe(&path, &root).unwrap().is_empty());

        let volume = dir.path().join("volume");
        File::create(&volume).unwrap().set_len(root.size).unwrap();
        let mut format = Command::new("cryptsetup");
        format.args([
            "luksFormat",
            "-q",
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            "--key-file",
            "-",
        ]);
        let mut format = format.arg(&volume).stdin(Stdio::piped()).spawn().unwrap();
        format.stdin.take().unwrap().write_all(b"key").unwrap();
        assert!(format.wait().unwrap().success());
        let mut disk = File::options().write(true).open(&path).unwrap();
        disk.seek(SeekFrom::Start(root.offset)).unwrap();
        std::io::copy(&mut File::open(&volume).unwrap(), &mut disk).unwrap();

        assert_eq!(
            probe(&path, &root).unwrap().get("TYPE").map(String::as_str),
            Some("crypto_LUKS")
        );
        assert!(luks(&path, &root).unwrap().pointer("/keyslots/0").is_some());
        let swap = of_type(&path, SWAP).unwrap();
        assert!(
            matches!(luks(&path, &swap), Err(Error::Program { .. })),
            "no volume there"
        );
        assert!(of_type(&path, HOME).unwrap_err().to_string().contains(ROOT));
        assert!(
            sealed(&path, ROOT)
                .unwrap_err()
                .to_string()
                .contains("no systemd-tpm2 token")
        );
    }

    #[test]
    fn a_kept_partition_has_its_entry_and_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (before, path) = (dir.path().join("before"), image(dir.path()));
        std::fs::copy(&path, &before).unwrap();
        let mut disk = File::options().write(true).open(&path).unwrap();
        disk.seek(SeekFrom::Start(80 << 20)).unwrap();
        disk.write_all(b"outside of all partitions").unwrap();
        kept(&before, &path).unwrap();
        disk.seek(SeekFrom::Start(of_type(&path, ROOT).unwrap().offset))
            .unwrap();
        disk.write_all(b"x").unwrap();
        assert!(
            kept(&before, &path)
                .unwrap_err()
                .to_string()
                .contains("bytes of")
        );
    }

    #[test]
    fn one_byte_and_the_length_are_differences() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::write(&one, vec![7; 3 << 20]).unwrap();
        std::fs::write(&other, vec![7; 3 << 20]).unwrap();
        assert_eq!(first_difference(&one, &other).unwrap(), None);
        let mut changed = vec![7; 3 << 20];
        *changed.get_mut(2_500_000).unwrap() = 8;
        std::fs::write(&other, &changed).unwrap();
        assert_eq!(first_difference(&one, &other).unwrap(), Some(2_500_000));
        std::fs::write(&other, vec![7; (3 << 20) - 1]).unwrap();
        assert_eq!(first_difference(&one, &other).unwrap(), Some((3 << 20) - 1));
    }
}
