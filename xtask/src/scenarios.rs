//! The virtual machine scenarios, as `cargo xtask test` runs them. Owns: what they are given to boot.

use std::io::Write;
use std::path::{Path, PathBuf};

use qemu::{Ctx, Outcome};

use crate::options::Options;
use crate::run::{at, cargo, loud};
use crate::{dist, image};

/// Runs the scenarios whose name contains `--only`, with what lies in `dist`.
///
/// # Errors
/// The tiny system's init could not be built, or no scenario has such a name. That a scenario failed is in its outcome.
pub fn run(workspace: &Path, dist: &Path, options: &Options) -> Result<Vec<Outcome>, String> {
    let ctx = context(workspace, dist, options, "target/vm")?;
    let mut progress = std::io::stderr();
    let outcomes = qemu::run(&options.only, &ctx, &mut progress);
    progress
        .flush()
        .map_err(at("write to", Path::new("stderr")))?;
    if outcomes.is_empty() {
        return Err(format!("no scenario has `{}` in its name", options.only));
    }
    Ok(outcomes)
}

/// What scenarios and measurements boot; each gets a directory below `out`.
///
/// # Errors
/// The tiny system's init could not be built.
pub fn context(workspace: &Path, dist: &Path, options: &Options, out: &str) -> Result<Ctx, String> {
    let tiny = tiny_init(workspace, options.quick)?;
    let out = workspace.join(out);
    std::fs::create_dir_all(&out).map_err(at("create", &out))?;
    Ok(Ctx::new(dist, &out, &tiny, image::cache()?))
}

/// The static init of the fixtures' tiny system.
fn tiny_init(workspace: &Path, quick: bool) -> Result<PathBuf, String> {
    let profile = dist::profile(quick);
    let mut build = cargo(workspace);
    build.args([
        "build",
        "--locked",
        "--profile",
        profile,
        "--package",
        "fixtures",
        "--bin",
        "tiny-init",
    ]);
    loud(&mut build)?;
    let tiny = dist::programs_dir(&dist::metadata(workspace)?, profile)?.join("tiny-init");
    dist::check_static(&tiny)?;
    Ok(tiny)
}
