//! File systems: mkfs programs run in one place, the swap header written here (spec 5.3).
//!
//! Invariant: a program is run by absolute path, with an empty environment but what it needs, no input, and a
//! deadline; what it said last is in the error.

mod run;
mod swap;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::definition::Format;
use crate::guid::Guid;

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// No program for it.
    #[error("no {program} in {dirs}")]
    Missing {
        /// Name of the program.
        program: String,
        /// Where it was looked for.
        dirs: String,
    },
    /// A file system we do not know how to make.
    #[error("Format={0} is not supported")]
    Unsupported(String),
    /// It could not be started or watched.
    #[error("cannot run {}", program.display())]
    Run {
        /// Path of the program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It said no.
    #[error("{} on {} failed ({status}): {stderr}", program.display(), device.display())]
    Failed {
        /// Path of the program.
        program: PathBuf,
        /// What it was run on.
        device: PathBuf,
        /// Exit code or signal.
        status: std::process::ExitStatus,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// It took too long and was killed.
    #[error("{} on {} did not end within {} s and was killed: {stderr}", program.display(), device.display(), deadline.as_secs())]
    Deadline {
        /// Path of the program.
        program: PathBuf,
        /// What it was run on.
        device: PathBuf,
        /// How long it had.
        deadline: Duration,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// The swap header could not be written.
    #[error("cannot write the swap header of {}", device.display())]
    Swap {
        /// The device.
        device: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Too small.
    #[error("{} has {len} bytes, {format} needs {need}", device.display())]
    TooSmall {
        /// The device.
        device: PathBuf,
        /// Which format.
        format: &'static str,
        /// Bytes there.
        len: u64,
        /// Bytes needed.
        need: u64,
    },
}

/// Where mkfs programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    dirs: Vec<PathBuf>,
}

impl Default for Programs {
    fn default() -> Self {
        Self::new(
            ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
                .map(PathBuf::from)
                .to_vec(),
        )
    }
}

impl Programs {
    /// Looks in these directories only.
    #[must_use]
    pub fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs }
    }

    /// The path of a program.
    ///
    /// # Errors
    /// It is in none of the directories.
    pub fn find(&self, program: &str) -> Result<PathBuf, FormatError> {
        let found = self
            .dirs
            .iter()
            .map(|dir| dir.join(program))
            .find(|path| path.is_file());
        found.ok_or_else(|| {
            let dirs: Vec<String> = self
                .dirs
                .iter()
                .map(|dir| dir.display().to_string())
                .collect();
            FormatError::Missing {
                program: program.to_owned(),
                dirs: dirs.join(", "),
            }
        })
    }

    /// Whether the help of a program names an option: the oldest supported distribution's mkfs lacks some.
    ///
    /// # Errors
    /// The program is missing or cannot be run.
    pub fn offers(&self, program: &str, option: &str) -> Result<bool, FormatError> {
        Ok(run::help(&self.find(program)?)?.contains(option))
    }

    /// The program [`make`] would run, `None` if it needs none. To be asked before anything is written.
    ///
    /// # Errors
    /// The program is missing or the file system is not supported.
    pub fn require(&self, format: &Format) -> Result<Option<PathBuf>, FormatError> {
        match format {
            Format::Swap | Format::Empty => Ok(None),
            Format::Ext4 | Format::Btrfs | Format::Xfs | Format::Vfat => {
                self.find(&format!("mkfs.{}", format.name())).map(Some)
            }
            Format::Other(name) => Err(FormatError::Unsupported(name.clone())),
        }
    }
}

/// What to make where.
#[derive(Clone, Debug)]
pub struct MkfsRequest<'a> {
    /// The file system.
    pub format: &'a Format,
    /// Block device or file.
    pub device: &'a Path,
    /// Label; shortened to what the file system takes.
    pub label: &'a str,
    /// UUID; vfat takes its first four bytes.
    pub uuid: Guid,
    /// Sector size for the file system.
    pub sector_size: u64,
    /// Let the program discard first.
    pub discard: bool,
    /// Directory whose content goes in (ext4, btrfs and xfs only).
    pub tree: Option<&'a Path>,
}

/// What only some callers give a mkfs program.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Joined to mke2fs's `-E`, of which only the last one counts.
    pub extended: Option<String>,
    /// Options before the device.
    pub options: Vec<OsString>,
    /// Words after the device.
    pub trailing: Vec<OsString>,
    /// Added to the environment.
    pub environment: Vec<(&'static str, String)>,
}

/// Makes the file system.
///
/// # Errors
/// A missing program, one that fails or takes longer than `deadline`.
pub fn make(
    request: &MkfsRequest<'_>,
    programs: &Programs,
    deadline: Duration,
) -> Result<(), FormatError> {
    make_with(request, &Extra::default(), programs, deadline)
}

/// [`make`] with more words.
///
/// # Errors
/// As [`make`].
pub fn make_with(
    request: &MkfsRequest<'_>,
    extra: &Extra,
    programs: &Programs,
    deadline: Duration,
) -> Result<(), FormatError> {
    let Some(program) = programs.require(request.format)? else {
        if *request.format == Format::Swap {
            return swap::make(request.device, cut(request.label, 15), request.uuid);
        }
        return Ok(());
    };
    let (mut arguments, mut environment) = arguments(request);
    if let Some(extended) = &extra.extended
        && let Some(at) = arguments.iter().position(|word| word == "-E")
        && let Some(value) = arguments.get_mut(at + 1)
    {
        value.push(",");
        value.push(extended);
    }
    arguments.extend(extra.options.iter().cloned());
    arguments.push(request.device.into());
    arguments.extend(extra.trailing.iter().cloned());
    environment.extend(extra.environment.iter().cloned());
    run::run(&program, &arguments, &environment, request.device, deadline)
}

/// Arguments without the device, and environment.
fn arguments(request: &MkfsRequest<'_>) -> (Vec<OsString>, Vec<(&'static str, String)>) {
    let uuid = request.uuid.to_string();
    let mut environment = Vec::new();
    let mut list = Vec::new();
    let mut push = |words: &[&str]| list.extend(words.iter().map(OsString::from));
    match request.format {
        Format::Ext4 => {
            let discard = if request.discard {
                "discard"
            } else {
                "nodiscard"
            };
            push(&[
                "-q",
                "-F",
                "-L",
                cut(request.label, 16),
                "-U",
                &uuid,
                "-I",
                "256",
                "-m",
                "0",
                "-b",
                "4096",
                "-T",
                "default",
            ]);
            push(&[
                "-E",
                &format!("{discard},lazy_itable_init=1,hash_seed={uuid}"),
            ]);
            environment.push(("MKE2FS_DEVICE_SECTSIZE", request.sector_size.to_string()));
        }
        Format::Btrfs => {
            push(&["-q", "-f", "-L", cut(request.label, 255), "-U", &uuid]);
            push(&["--sectorsize", &request.sector_size.max(4096).to_string()]);
            if !request.discard {
                push(&["--nodiscard"]);
            }
        }
        Format::Xfs => {
            push(&[
                "-q",
                "-f",
                "-L",
                cut(request.label, 12),
                "-m",
                &format!("uuid={uuid}"),
                "-m",
                "reflink=1",
            ]);
            push(&["-s", &format!("size={}", request.sector_size)]);
            if !request.discard {
                push(&["-K"]);
            }
        }
        Format::Vfat => {
            let id: String = uuid.chars().take(8).collect();
            push(&[
                "-i",
                &id,
                "-n",
                &vfat_label(request.label),
                "-F",
                "32",
                "-S",
                &request.sector_size.to_string(),
            ]);
        }
        Format::Swap | Format::Empty | Format::Other(_) => {}
    }
    if let Some(tree) = request.tree {
        let option = match request.format {
            Format::Ext4 => Some("-d"),
            Format::Btrfs => Some("-r"),
            Format::Xfs => Some("-p"),
            _ => None,
        };
        if let Some(option) = option {
            list.push(option.into());
            list.push(tree.into());
        }
    }
    (list, environment)
}

/// The longest start of `label` with at most `bytes` bytes.
fn cut(label: &str, bytes: usize) -> &str {
    let end = (0..=label.len().min(bytes))
        .rev()
        .find(|at| label.is_char_boundary(*at));
    &label[..end.unwrap_or(0)]
}

/// Eleven characters of upper-case ASCII without what FAT forbids.
fn vfat_label(label: &str) -> String {
    let clean = label
        .chars()
        .filter(|c| c.is_ascii() && !c.is_ascii_control())
        .map(|c| {
            if "*?.,;:/\\|+=<>[]\"".contains(c) {
                '_'
            } else {
                c.to_ascii_uppercase()
            }
        });
    let text: String = clean.take(11).collect();
    if text.trim().is_empty() {
        "NO NAME".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests;
