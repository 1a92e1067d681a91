//! `initrd-agent`: the tool a person runs, on the build host and on the booted machine.
//! Exit codes: 0 done, 1 failed, 2 usage.

use initrd_agent::{install, pack, reset, view};
use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

const HELP: &str = "\
initrd-agent COMMAND

Commands:
  pack --tree DIR --kernel VERSION --output FILE [...]   make the initrd (pack --help tells more)
  install DISK [--dry-run] [--yes] [...]                 copy this system onto another disk (install --help tells more)
  report [--json|--svg] [FILE]                           show what the last boot did
  reset status|cancel [--root DIR] [--yes]               requests for a factory reset (reset --help tells more)
  --version                                              print the version
  --help                                                 print this text
";

/// Where the agent leaves its report.
const REPORT: &str = "/run/initrd-agent/report.json";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut out = std::io::stdout().lock();
    let result = match arguments.first().and_then(|a| a.to_str()) {
        Some("pack") => match pack::run(&arguments[1..], &mut out) {
            Ok(()) => Ok(()),
            Err(error) => {
                let code = error.exit_code();
                return fail(&error, code);
            }
        },
        Some("install") => match install::run(&arguments[1..], &mut out) {
            Ok(()) => Ok(()),
            Err(error) => {
                let code = error.exit_code();
                return fail(&error, code);
            }
        },
        // Asking for what nobody will do would be a trap: the initrd of this version only names such requests.
        Some("reset") if arguments.get(1).is_some_and(|verb| verb == "request") => {
            return fail(&Unsupported, 1);
        }
        Some("reset") => match reset::command::run(&arguments[1..], &mut out) {
            Ok(code) => return ExitCode::from(code),
            Err(error) => {
                let code = error.exit_code();
                return fail(&error, code);
            }
        },
        Some("report") => report(&arguments[1..], &mut out),
        Some("--version") => print(
            &mut out,
            concat!("initrd-agent ", env!("CARGO_PKG_VERSION"), "\n"),
        ),
        Some("--help" | "-h" | "help") => print(&mut out, HELP),
        other => {
            let what = other.map_or("a command is missing".to_owned(), |o| {
                format!("unknown command {o:?}")
            });
            return fail(&Usage(what), 2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Usage>() => fail(error.as_ref(), 2),
        Err(error) => fail(error.as_ref(), 1),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}; see initrd-agent --help")]
struct Usage(String);

#[derive(Debug, thiserror::Error)]
#[error(
    "reset request: the initrd of this version does not carry out factory resets; nothing was requested"
)]
struct Unsupported;

fn print(out: &mut impl Write, text: &str) -> Result<(), Box<dyn Error>> {
    Ok(out.write_all(text.as_bytes())?)
}

fn report(arguments: &[OsString], out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let mut path = None;
    let mut form = "text";
    for argument in arguments {
        match argument.to_str() {
            Some("--svg") => form = "svg",
            Some("--json") => form = "json",
            Some(option) if option.starts_with('-') => {
                return Err(Usage(format!("unknown option {option}")).into());
            }
            _ if path.is_none() => path = Some(argument.as_os_str()),
            _ => return Err(Usage("report takes one file".to_owned()).into()),
        }
    }
    let report = view::load(path.map_or(Path::new(REPORT), Path::new))?;
    match form {
        "svg" => print(out, &view::as_svg(&report)),
        "json" => print(out, &format!("{report:#}\n")),
        _ => print(out, &view::for_people(&report)),
    }
}

/// Prints the chain of causes once.
fn fail(error: &dyn Error, code: u8) -> ExitCode {
    let mut text = format!("initrd-agent: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{text}");
    ExitCode::from(code)
}
