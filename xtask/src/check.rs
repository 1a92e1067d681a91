//! `cargo xtask test` and `lint`. Every check runs, whatever failed before it, and is counted; only what the next ones
//! are made of stops them.

use std::path::Path;
use std::time::Instant;

use crate::options::Options;
use crate::run::{cargo, loud};
use crate::{dist, mkfs, peer, scenarios, setup, sysroot};

/// What passed and what did not.
#[derive(Debug, Default)]
struct Count {
    passed: usize,
    failed: Vec<String>,
}

impl Count {
    /// Runs one check and counts it.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<(), String>) {
        let started = Instant::now();
        eprintln!("\n==== {name} ====");
        match check() {
            Ok(()) => {
                self.passed += 1;
                eprintln!(
                    "==== {name}: passed ({:.0} s)",
                    started.elapsed().as_secs_f32()
                );
            }
            Err(error) => {
                eprintln!(
                    "{error}\n==== {name}: FAILED ({:.0} s)",
                    started.elapsed().as_secs_f32()
                );
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Prints the last line and says whether all is well.
    fn done(self) -> bool {
        println!();
        for name in &self.failed {
            println!("failed: {name}");
        }
        println!("{} passed, {} failed", self.passed, self.failed.len());
        self.failed.is_empty()
    }
}

/// Format, clippy and, if installed, cargo-deny.
///
/// # Errors
/// The C libraries could not be built, without which nothing compiles.
pub fn lint(workspace: &Path) -> Result<bool, String> {
    setup::ensure()?;
    sysroot::ensure(workspace)?;
    let mut count = Count::default();
    lints(workspace, &mut count);
    Ok(count.done())
}

fn lints(workspace: &Path, count: &mut Count) {
    count.check("format", || {
        loud(cargo(workspace).args(["fmt", "--all", "--check"]))
    });
    count.check("clippy", || {
        let mut clippy = cargo(workspace);
        clippy.args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "--deny",
            "warnings",
        ]);
        loud(&mut clippy)
    });
    // Needs the advisory database, which is not reachable everywhere; so its absence is told and not a failure.
    if cargo(workspace)
        .args(["deny", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        count.check("licences and advisories", || {
            loud(cargo(workspace).args(["deny", "check"]))
        });
    } else {
        eprintln!("\nskipped: licences and advisories (`cargo install cargo-deny` adds the check)");
    }
}

/// Everything.
///
/// # Errors
/// What all checks need could not be made.
pub fn test(workspace: &Path, options: &Options) -> Result<bool, String> {
    setup::ensure()?;
    sysroot::ensure(workspace)?;
    mkfs::ensure()?;
    let mut count = Count::default();
    if options.only.is_empty() {
        lints(workspace, &mut count);
    }
    let mut dist = None;
    count.check("build", || {
        dist = Some(dist::build(workspace, options.quick)?);
        Ok(())
    });
    // After the build: tests of contents call the mkfs programs that go into the initrd.
    if options.only.is_empty() {
        units(workspace, &mut count);
    }
    if let (Some(dist), true) = (&dist, options.only.is_empty()) {
        count.check("the peer's own suite", || {
            if peer::suites(workspace, dist)? {
                Ok(())
            } else {
                Err("not every case ended as repart/tests/peer says".to_owned())
            }
        });
    }
    match dist {
        Some(_) if options.no_vm => eprintln!("\nskipped: virtual machine scenarios (--no-vm)"),
        Some(dist) => machines(workspace, &dist, options, &mut count),
        None => count
            .failed
            .push("virtual machine scenarios (nothing to boot)".to_owned()),
    }
    Ok(count.done())
}

fn units(workspace: &Path, count: &mut Count) {
    let test = |rest: &[&str]| {
        loud(
            cargo(workspace)
                .args(["test", "--quiet", "--locked"])
                .args(rest)
                // Else the machine scenarios would run here too.
                .env_remove("INITRD_AGENT_DIST"),
        )
    };
    count.check("dependency arrows", || {
        test(&["--package", "xtask", "--test", "arrows"])
    });
    count.check("unit and property tests", || {
        test(&["--workspace", "--no-fail-fast"])
    });
}

/// Each scenario counts for itself.
fn machines(workspace: &Path, dist: &Path, options: &Options, count: &mut Count) {
    eprintln!("\n==== virtual machine scenarios ====");
    match scenarios::run(workspace, dist, options) {
        Ok(outcomes) => {
            for outcome in outcomes {
                match outcome.failure {
                    None => count.passed += 1,
                    Some(_) => count.failed.push(format!(
                        "scenario {} ({})",
                        outcome.name,
                        outcome.logs.display()
                    )),
                }
            }
        }
        Err(error) => {
            eprintln!("{error}");
            count.failed.push("virtual machine scenarios".to_owned());
        }
    }
}
