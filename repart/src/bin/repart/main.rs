//! systemd-repart's command line over the library. The only place that prints, decides and exits.

mod args;
mod contents;
mod host;
mod json;
mod pretty;
mod run;

use std::io::Write;
use std::process::ExitCode;

use args::Command;

fn main() -> ExitCode {
    match args::parse()
        .map_err(run::Failure::usage)
        .and_then(|command| match command {
            Command::Print(text) => print(&text).map(|()| 0),
            Command::Run(options) => run::run(&options),
        }) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report(&failure);
            ExitCode::from(failure.code)
        }
    }
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
