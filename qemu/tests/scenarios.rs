//! Runs the machine scenarios over the products of a build: `cargo test -p qemu --test scenarios -- [FILTER]`.
//!
//! The environment says what to boot: `INITRD_AGENT_DIST` is the directory of the products (`cargo xtask build` makes
//! `target/dist`). Without it this test says that it is skipped; `cargo xtask test` always sets it.

use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use fixtures::Cache;
use qemu::{Ctx, runner};

fn main() -> ExitCode {
    let filter = std::env::args()
        .skip(1)
        .find(|arg| !arg.starts_with('-'))
        .unwrap_or_default();
    if std::env::args().any(|arg| arg == "--list") {
        let names = runner::selected(&filter)
            .into_iter()
            .map(|one| format!("{:<20} {}\n", one.name, one.story));
        return told(&names.collect::<String>());
    }
    let Some(dist) = std::env::var_os("INITRD_AGENT_DIST") else {
        return told(
            "skipped: machine scenarios: INITRD_AGENT_DIST does not say what to boot (see cargo xtask test)\n",
        );
    };
    match context(Path::new(&dist)) {
        Ok(ctx) => {
            let outcomes = qemu::run(&filter, &ctx, &mut stdout());
            let bad =
                outcomes.is_empty() || outcomes.iter().any(|outcome| outcome.failure.is_some());
            ExitCode::from(u8::from(bad))
        }
        Err(why) => {
            told(&format!("cannot prepare the scenarios: {why}\n"));
            ExitCode::FAILURE
        }
    }
}

fn context(dist: &Path) -> Result<Ctx, String> {
    let dist = dist
        .canonicalize()
        .map_err(|error| format!("{}: {error}", dist.display()))?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("no workspace")?;
    let cache = Cache::user()
        .map_err(|error| error.to_string())?
        .with_progress(|step| {
            if let Some(took) = step.took {
                // Progress that nobody reads is no failure.
                drop(writeln!(
                    stderr(),
                    "       made {} in {:.1} s",
                    step.step,
                    took.as_secs_f64()
                ));
            }
        });
    Ok(Ctx::new(
        &dist,
        &workspace.join("target/vm"),
        &tiny_init()?,
        cache,
    ))
}

/// Builds the tiny system's init; cargo tells where it is.
fn tiny_init() -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args([
        "build",
        "--profile",
        "quick",
        "--package",
        "fixtures",
        "--bin",
        "tiny-init",
    ]);
    build
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let built = build
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let messages = String::from_utf8_lossy(&built.stdout).into_owned();
    let executable = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(PathBuf::from)
    });
    executable
        .filter(|_| built.status.success())
        .ok_or_else(|| "tiny-init does not build".to_owned())
}

fn told(text: &str) -> ExitCode {
    drop(stdout().write_all(text.as_bytes()));
    ExitCode::SUCCESS
}
