//! The command line of `initrd-agent pack`. Owns: every option, its default and its meaning.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::PackError;

/// The text of `--help`.
pub const HELP: &str = "\
Usage: initrd-agent pack --tree DIR --kernel VERSION --output FILE [options]

Makes the initrd: our init, mkfs programs and kernel modules, as a reproducible cpio compressed with zstd.

  --tree DIR           unpacked OS tree, or /; DIR/usr/lib/modules/VERSION and DIR/usr/lib/firmware are used
  --kernel VERSION     kernel version, as the directory is named
  --output FILE        where the initrd goes
  --mkfs LIST          file systems that first boot makes: btrfs,ext4,xfs,vfat or none (default btrfs,ext4)
  --module NAME        one more kernel module, with what it depends on (repeatable)
  --add SRC:DST        one more file or directory (repeatable); DST is an absolute path in the initrd
  --config FILE        agent.toml, the boot policy; unknown keys are errors
  --init FILE          our init (default: `init` beside this program)
  --mkfs-dir DIR       where mkfs.* are (default: beside this program)
  --level N            zstd level 1 to 19 (default 19)
  --size-report        print what takes the room, file by file
";

/// One typed policy out of the raw arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The OS tree.
    pub tree: PathBuf,
    /// The kernel version.
    pub kernel: String,
    /// The initrd to write.
    pub output: PathBuf,
    /// File systems whose mkfs goes along.
    pub mkfs: Vec<String>,
    /// Modules wanted beside the table.
    pub modules: Vec<String>,
    /// Files to add: source on the host, absolute destination in the initrd.
    pub add: Vec<(PathBuf, PathBuf)>,
    /// `agent.toml`.
    pub config: Option<PathBuf>,
    /// Our `init`.
    pub init: PathBuf,
    /// The directory of the mkfs programs.
    pub mkfs_dir: PathBuf,
    /// The zstd level, 1 to 19.
    pub level: i32,
    /// Whether the long report is wanted.
    pub size_report: bool,
}

/// What the person asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `--help`.
    Help,
    /// Make an initrd.
    Pack(Box<Options>),
}

/// The file systems we have an mkfs for.
const MKFS: [&str; 4] = ["btrfs", "ext4", "vfat", "xfs"];

/// Reads the arguments after `pack`; `beside` is the directory of the running program.
///
/// # Errors
/// [`PackError::Usage`].
pub fn parse(args: &[OsString], beside: &Path) -> Result<Request, PackError> {
    let (mut tree, mut kernel, mut output, mut config, mut init, mut mkfs_dir) =
        (None, None, None, None, None, None);
    let (mut modules, mut add) = (Vec::new(), Vec::new());
    let mut mkfs = vec!["btrfs".to_owned(), "ext4".to_owned()];
    let (mut level, mut size_report) = (19, false);
    let mut rest = args.iter();
    while let Some(raw) = rest.next() {
        let raw = raw
            .to_str()
            .ok_or_else(|| usage(format!("{} is not UTF-8", raw.display())))?;
        let (option, attached) = match raw.split_once('=') {
            Some((option, value)) if option.starts_with("--") => {
                (option, Some(OsString::from(value)))
            }
            _ => (raw, None),
        };
        match option {
            "--help" | "-h" => return Ok(Request::Help),
            "--size-report" if attached.is_none() => {
                size_report = true;
                continue;
            }
            "--tree" | "--kernel" | "--output" | "--mkfs" | "--module" | "--add" | "--config"
            | "--init" | "--mkfs-dir" | "--level" => {}
            _ => return Err(usage(format!("unknown option `{raw}`"))),
        }
        let value = attached
            .or_else(|| rest.next().cloned())
            .filter(|value| !value.is_empty())
            .ok_or_else(|| usage(format!("`{option}` needs a value")))?;
        match option {
            "--tree" => once(option, &mut tree, PathBuf::from(value))?,
            "--kernel" => once(option, &mut kernel, kernel_version(&value)?)?,
            "--output" => once(option, &mut output, PathBuf::from(value))?,
            "--config" => once(option, &mut config, PathBuf::from(value))?,
            "--init" => once(option, &mut init, PathBuf::from(value))?,
            "--mkfs-dir" => once(option, &mut mkfs_dir, PathBuf::from(value))?,
            "--mkfs" => mkfs = file_systems(&text(option, &value)?)?,
            "--module" => modules.push(text(option, &value)?),
            "--add" => add.push(source_and_destination(&text(option, &value)?)?),
            _ => level = zstd_level(&text(option, &value)?)?,
        }
    }
    Ok(Request::Pack(Box::new(Options {
        tree: tree.ok_or_else(|| usage("--tree is missing"))?,
        kernel: kernel.ok_or_else(|| usage("--kernel is missing"))?,
        output: output.ok_or_else(|| usage("--output is missing"))?,
        mkfs,
        modules,
        add,
        config,
        init: init.unwrap_or_else(|| beside.join("init")),
        mkfs_dir: mkfs_dir.unwrap_or_else(|| beside.to_owned()),
        level,
        size_report,
    })))
}

fn usage(what: impl Into<String>) -> PackError {
    PackError::Usage { what: what.into() }
}

fn once<T>(option: &str, slot: &mut Option<T>, value: T) -> Result<(), PackError> {
    if slot.replace(value).is_some() {
        return Err(usage(format!("`{option}` is given twice")));
    }
    Ok(())
}

fn text(option: &str, value: &OsString) -> Result<String, PackError> {
    value
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| usage(format!("the value of `{option}` is not UTF-8")))
}

fn kernel_version(value: &OsString) -> Result<String, PackError> {
    let version = text("--kernel", value)?;
    if version.contains('/') || version.starts_with('.') {
        return Err(usage(format!("`{version}` is not a kernel version")));
    }
    Ok(version)
}

fn file_systems(list: &str) -> Result<Vec<String>, PackError> {
    if list == "none" {
        return Ok(Vec::new());
    }
    let mut wanted: Vec<String> = list.split(',').map(str::to_owned).collect();
    if let Some(unknown) = wanted.iter().find(|name| !MKFS.contains(&name.as_str())) {
        return Err(usage(format!(
            "no mkfs for `{unknown}`; there are {}",
            MKFS.join(", ")
        )));
    }
    wanted.sort();
    wanted.dedup();
    Ok(wanted)
}

fn source_and_destination(value: &str) -> Result<(PathBuf, PathBuf), PackError> {
    let bad = || {
        usage(format!(
            "`--add {value}`: SRC:DST wanted, DST an absolute path without `..`"
        ))
    };
    let (source, destination) = value.split_once(':').ok_or_else(bad)?;
    let path = PathBuf::from(destination);
    let plain = path
        .components()
        .skip(1)
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if source.is_empty() || !path.is_absolute() || !plain || path.components().count() < 2 {
        return Err(bad());
    }
    Ok((PathBuf::from(source), path))
}

fn zstd_level(value: &str) -> Result<i32, PackError> {
    match value.parse() {
        Ok(level @ 1..=19) => Ok(level),
        _ => Err(usage(format!(
            "`--level {value}`: a number from 1 to 19 wanted"
        ))),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Request, PackError> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&args, Path::new("/dist"))
    }

    #[test]
    fn defaults_are_taken_from_beside_the_program() {
        let Request::Pack(options) = read("--tree / --kernel 6.12 --output=x").unwrap() else {
            panic!("help?")
        };
        assert_eq!(options.init, Path::new("/dist/init"));
        assert_eq!(options.mkfs_dir, Path::new("/dist"));
        assert_eq!(options.mkfs, ["btrfs", "ext4"]);
        assert_eq!(options.level, 19);
    }

    #[test]
    fn repeatable_options_add_up_and_lists_are_sorted() {
        let line = "--tree / --kernel 6.12 --output x --module a --module b --add a:/b/c --mkfs xfs,btrfs,xfs --size-report";
        let Request::Pack(options) = read(line).unwrap() else {
            panic!("help?")
        };
        assert_eq!(options.modules, ["a", "b"]);
        assert_eq!(options.add, [(PathBuf::from("a"), PathBuf::from("/b/c"))]);
        assert_eq!(options.mkfs, ["btrfs", "xfs"]);
        assert!(options.size_report);
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        for (line, word) in [
            ("--tree /", "--kernel"),
            ("--tree / --tree /", "twice"),
            ("--kernel ../x", "not a kernel version"),
            ("--mkfs zfs", "zfs"),
            ("--add a", "SRC:DST"),
            ("--add a:b", "SRC:DST"),
            ("--add a:/b/../c", "SRC:DST"),
            ("--add a:/", "SRC:DST"),
            ("--level 20", "1 to 19"),
            ("--frob", "--frob"),
            ("--tree", "needs a value"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.to_string().contains(word), "{line}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
