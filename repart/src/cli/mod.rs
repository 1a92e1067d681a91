//! systemd-repart's command line over the library. The only place of this crate that prints, decides and exits.
//!
//! Encryption is the caller's: this crate knows neither LUKS nor TPMs ([`Encryption`]).

mod args;
mod backing;
mod contents;
mod encryption;
mod host;
mod json;
mod kernel;
mod pretty;
mod run;
mod temporary;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use args::Command;
pub use encryption::{EncryptRequest, Encryption, KeyOptions};

/// Does what the process's arguments say. Without `encryption` a definition with `Encrypt=` is refused.
#[must_use]
pub fn main(encryption: Option<&mut dyn Encryption>) -> ExitCode {
    ExitCode::from(run(std::env::args_os(), encryption))
}

/// [`main`] with the given words, the first of which is the program's name; the exit code.
#[must_use]
pub fn run(
    words: impl IntoIterator<Item = OsString>,
    encryption: Option<&mut dyn Encryption>,
) -> u8 {
    let words: Vec<OsString> = words.into_iter().collect();
    let done = args::parse(words)
        .map_err(run::Failure::usage)
        .and_then(|command| match command {
            Command::Print(text) => print(&text).map(|()| 0),
            Command::Run(options) => run::run(&options, encryption),
        });
    done.unwrap_or_else(|failure| {
        report(&failure);
        failure.code
    })
}

/// One line, the chain of causes joined.
fn report(failure: &run::Failure) {
    let mut line = format!("repart: {}", failure.error);
    let mut cause = failure.error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    say(&line);
}

/// To stderr; where that is closed there is nobody to tell.
fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn print(text: &str) -> Result<(), run::Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(run::Failure::new)
}
