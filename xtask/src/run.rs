//! Running programs, and telling the person what takes so long. Invariant: whatever runs longer than a moment is
//! announced, and its seconds are told when it ends; a failed program's last lines are in the error.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How many lines of a failed program an error shows.
const TAIL: usize = 30;

/// A program found in `PATH` or the sbin directories (a plain user's `PATH` lacks them), with a fixed locale.
pub fn program(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command
        .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"))
        .env("LC_ALL", "C.UTF-8");
    command
}

/// The cargo that runs us.
pub fn cargo(workspace: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace);
    command
}

/// Runs a program to its end and returns what it wrote to stdout; the error has the end of what it wrote at all.
pub fn quiet(command: &mut Command) -> Result<String, String> {
    let name = name(command);
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        format!("cannot run {name}: {error}; `cargo xtask setup` installs what is missing")
    })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let text = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    Err(format!("{name} failed ({}):\n{tail}", output.status))
}

/// Runs a program on our own terminal.
pub fn loud(command: &mut Command) -> Result<(), String> {
    let name = name(command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} failed ({status})")),
        Err(error) => Err(format!(
            "cannot run {name}: {error}; `cargo xtask setup` installs what is missing"
        )),
    }
}

/// Does `work`, which prints nothing itself, under a name with running seconds.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let started = Instant::now();
    let (done, ticks) = channel::<()>();
    let shown = name.to_owned();
    let ticker = std::thread::spawn(move || {
        // A terminal sees the seconds run; a log file gets one line a minute.
        let live = std::io::stderr().is_terminal();
        let period = Duration::from_secs(if live { 1 } else { 60 });
        while ticks.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
            let end = if live { '\r' } else { '\n' };
            let line = format!("{shown:<28} {:>6} s …{end}", started.elapsed().as_secs());
            // Progress that cannot be shown is no reason to stop.
            drop(std::io::stderr().write_all(line.as_bytes()));
        }
    });
    let result = work();
    drop(done);
    // The ticker cannot panic, and there is nothing to do about it if it did.
    drop(ticker.join());
    let word = if result.is_ok() { "" } else { "  failed" };
    eprintln!(
        "{name:<28} {:>6.1} s{word}  ",
        started.elapsed().as_secs_f32()
    );
    result.map_err(|error| format!("{name}: {error}"))
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// For `map_err`: what was tried on which file.
pub fn at<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> String + 'a {
    move |error| format!("cannot {what} {}: {error}", path.display())
}

fn name(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .take(4)
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_tells_its_last_lines() {
        let error =
            quiet(program("sh").args(["-c", "echo out; echo why >&2; exit 3"])).unwrap_err();
        assert!(
            error.contains("why") && error.contains("exit status: 3"),
            "{error}"
        );
        let error = quiet(&mut program("no-such-program-here")).unwrap_err();
        assert!(error.contains("cargo xtask setup"), "{error}");
    }

    #[test]
    fn a_step_names_itself_in_its_error() {
        let error = step::<()>("cooking", || Err("burnt".to_owned())).unwrap_err();
        assert_eq!(error, "cooking: burnt");
    }
}
