//! `initrd-agent reset request|cancel|status`: on the booted system, for the next boot.
//!
//! Speaks systemd's language in both directions: it writes what systemd-factory-reset(8) of 258 and later writes, and
//! tells the state in its words with its exit codes.

use super::osrelease::OsRelease;
use super::request::{Decision, Evidence, Why, Word, compose, decide};
use super::variable::{Deletion, LEGACY, REQUEST, Store, WriteError};
use crate::cmdline::Cmdline;
use repart::parse_bool;
use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// What `--help` prints.
pub const HELP: &str = "\
initrd-agent reset COMMAND [--root DIR] [--yes] [--quiet]

  status    unsupported, unspecified, off, on, complete or pending;
            exit code 10 for on, 11 for pending, else 0
  request   erase at the next boot what the image marks FactoryReset=yes
  cancel    withdraw a request

  --root DIR   find EFI variables, /proc, /etc and /run below DIR
  --yes        do not ask before requesting
  --quiet      print nothing
";

/// Left by whoever finished a reset in this boot.
const COMPLETE: &str = "run/systemd/factory-reset-complete";
const EXIT_ON: u8 = 10;
const EXIT_PENDING: u8 = 11;

/// Why the command did not do it.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Wrong arguments.
    #[error("{0}; see initrd-agent reset --help")]
    Usage(String),
    /// A state in which the command makes no sense.
    #[error("{0}")]
    State(&'static str),
    /// The system does not say what it is.
    #[error("a request cannot be written")]
    Compose(#[source] Why),
    /// A file that is needed.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The variable was not written.
    #[error("the request is not stored")]
    Write(#[source] WriteError),
    /// The variable was not deleted.
    #[error("EFI variable {name} cannot be deleted")]
    Delete {
        /// Which.
        name: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Printing or asking.
    #[error("cannot talk to the terminal")]
    Terminal(#[source] io::Error),
}

impl CommandError {
    /// 2 for usage, 1 for the rest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }
}

/// systemd's words for the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `$SYSTEMD_FACTORY_RESET_SUPPORTED` says no.
    Unsupported,
    /// Nobody asked.
    Unspecified,
    /// The command line says no.
    Off,
    /// This boot is to reset.
    On,
    /// This boot has reset.
    Complete,
    /// The next boot is to reset.
    Pending,
}

impl Mode {
    /// As systemd-factory-reset prints it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::Unspecified => "unspecified",
            Self::Off => "off",
            Self::On => "on",
            Self::Complete => "complete",
            Self::Pending => "pending",
        }
    }

    /// As systemd-factory-reset exits.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::On => EXIT_ON,
            Self::Pending => EXIT_PENDING,
            _ => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Status,
    Request,
    Cancel,
}

struct Options {
    verb: Verb,
    root: PathBuf,
    yes: bool,
    quiet: bool,
}

/// Runs the command; the exit code of `status` tells the state.
///
/// # Errors
/// Everything that kept it from being done.
pub fn run(arguments: &[OsString], out: &mut impl Write) -> Result<u8, CommandError> {
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        return say(out, false, HELP).map(|()| 0);
    }
    let options = parse(arguments)?;
    let machine = Machine::at(&options.root)?;
    let mode = machine.mode();
    match options.verb {
        Verb::Status => {
            say(out, options.quiet, &format!("{}\n", mode.word()))?;
            Ok(mode.exit_code())
        }
        Verb::Request => request(&options, &machine, mode, out),
        Verb::Cancel => cancel(&options, &machine, mode, out),
    }
}

fn parse(arguments: &[OsString]) -> Result<Options, CommandError> {
    let usage = |text: String| Err(CommandError::Usage(text));
    let mut options = Options {
        verb: Verb::Status,
        root: PathBuf::from("/"),
        yes: false,
        quiet: false,
    };
    let mut verb = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("--yes") => options.yes = true,
            Some("--quiet" | "-q") => options.quiet = true,
            Some("--root") => match rest.next() {
                Some(dir) => options.root = PathBuf::from(dir),
                None => return usage("--root needs a directory".to_owned()),
            },
            Some("status") if verb.is_none() => verb = Some(Verb::Status),
            Some("request") if verb.is_none() => verb = Some(Verb::Request),
            Some("cancel") if verb.is_none() => verb = Some(Verb::Cancel),
            _ => return usage(format!("unexpected argument {argument:?}")),
        }
    }
    match verb {
        Some(verb) => Ok(Options { verb, ..options }),
        None => usage("status, request or cancel is missing".to_owned()),
    }
}

/// The booted machine as far as it matters.
struct Machine {
    store: Store,
    os: OsRelease,
    boot_id: Option<[u8; 16]>,
    evidence: Evidence,
    complete: bool,
}

impl Machine {
    fn at(root: &Path) -> Result<Self, CommandError> {
        let read = |path: PathBuf, source| CommandError::Read { path, source };
        let mut os = OsRelease::default();
        for file in ["etc/os-release", "usr/lib/os-release"] {
            let path = root.join(file);
            if path.exists() {
                os = OsRelease::read(&path).map_err(|e| read(path, e))?;
                break;
            }
        }
        let line = root.join("proc/cmdline");
        let text = match std::fs::read_to_string(&line) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(read(line, error)),
        };
        // A contradictory line never got this far: the boot ended with it.
        let cmdline = Cmdline::parse(&text).unwrap_or_default();
        let evidence = Evidence::gather(root, &cmdline, os.clone());
        Ok(Self {
            store: Store::below(root),
            boot_id: evidence.boot_id,
            os,
            evidence,
            complete: root.join(COMPLETE).exists(),
        })
    }

    /// In systemd's order. A legacy variable has no date: the initrd obeyed the one it saw, so this one is for the next.
    fn mode(&self) -> Mode {
        let supported = std::env::var("SYSTEMD_FACTORY_RESET_SUPPORTED").ok();
        if supported.is_some_and(|text| parse_bool(&text) == Some(false)) {
            return Mode::Unsupported;
        }
        if self.complete {
            return Mode::Complete;
        }
        match self.evidence.word {
            Word::On => return Mode::On,
            Word::Off | Word::Garbage(_) => return Mode::Off,
            Word::Absent => {}
        }
        let legacy = Evidence {
            request: super::variable::Reading::Absent,
            ..self.evidence.clone()
        };
        let request = Evidence {
            legacy: super::variable::Reading::Absent,
            ..self.evidence.clone()
        };
        match decide(&request, None, &[]).decision {
            Decision::On { .. } => return Mode::On,
            Decision::Pending => return Mode::Pending,
            _ => {}
        }
        match decide(&legacy, None, &[]).decision {
            Decision::On { .. } => Mode::Pending,
            _ => Mode::Unspecified,
        }
    }
}

fn request(
    options: &Options,
    machine: &Machine,
    mode: Mode,
    out: &mut impl Write,
) -> Result<u8, CommandError> {
    match mode {
        Mode::Unsupported => {
            return Err(CommandError::State("this system supports no factory reset"));
        }
        Mode::On => {
            return Err(CommandError::State(
                "this boot is to reset already; a second reset cannot be requested",
            ));
        }
        Mode::Pending => {
            return say(
                out,
                options.quiet,
                "A factory reset is requested already.\n",
            )
            .map(|()| 0);
        }
        Mode::Unspecified | Mode::Off | Mode::Complete => {}
    }
    let boot_id = machine
        .boot_id
        .ok_or(CommandError::Compose(Why::UnknownBoot))?;
    let text = compose(&machine.os, boot_id).map_err(CommandError::Compose)?;
    if !options.yes && !confirmed(out)? {
        return Err(CommandError::State("nothing was requested"));
    }
    machine
        .store
        .write(REQUEST, &text)
        .map_err(CommandError::Write)?;
    say(
        out,
        options.quiet,
        "Factory reset requested: the next boot erases what the image marks FactoryReset=yes.\n",
    )?;
    Ok(0)
}

/// Only a person at a terminal can answer.
fn confirmed(out: &mut impl Write) -> Result<bool, CommandError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(CommandError::Usage(
            "no terminal to ask at: give --yes".to_owned(),
        ));
    }
    say(
        out,
        false,
        "The next boot will erase all data of this installation. Type yes to go on: ",
    )?;
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(CommandError::Terminal)?;
    Ok(answer.trim() == "yes")
}

fn cancel(
    options: &Options,
    machine: &Machine,
    mode: Mode,
    out: &mut impl Write,
) -> Result<u8, CommandError> {
    if mode == Mode::On {
        return Err(CommandError::State(
            "this boot is to reset already; it cannot be cancelled any more",
        ));
    }
    let mut any = false;
    for name in [LEGACY, REQUEST] {
        match machine.store.delete(name) {
            Deletion::Absent => {}
            Deletion::Deleted => any = true,
            Deletion::Refused(source) => return Err(CommandError::Delete { name, source }),
        }
    }
    let text = if any {
        "Factory reset cancelled.\n"
    } else {
        "No factory reset was requested.\n"
    };
    say(out, options.quiet, text)?;
    Ok(0)
}

fn say(out: &mut impl Write, quiet: bool, text: &str) -> Result<(), CommandError> {
    if quiet {
        return Ok(());
    }
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CommandError::Terminal)
}
