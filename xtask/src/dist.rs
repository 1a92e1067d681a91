//! `cargo xtask build`: everything that ships, into `target/dist` (CONTRACT section 1). Invariant: what lies there is
//! static, and each file appears by rename.

use std::fs;
use std::path::{Path, PathBuf};

use crate::run::{at, cargo, loud, program, quiet};
use crate::{mkfs, setup, sysroot};

/// Programs that ship: name, package, and whether the build fails without it.
const PROGRAMS: [(&str, &str, bool); 4] = [
    ("init", "initrd-agent", true),
    ("initrd-agent", "initrd-agent", true),
    ("repart", "initrd-agent", true),
    // Comes with per-user roots.
    ("userroot", "switchroot", false),
];

/// Builds everything and returns `target/dist`.
///
/// # Errors
/// What could not be installed, built, or is not static.
pub fn build(workspace: &Path, quick: bool) -> Result<PathBuf, String> {
    setup::ensure()?;
    sysroot::ensure(workspace)?;
    mkfs::ensure()?;
    let dist = workspace.join("target/dist");
    fs::create_dir_all(&dist).map_err(at("create", &dist))?;
    let built = programs(workspace, quick)?;
    let mkfs = mkfs::names().map(|name| Ok((name.to_owned(), mkfs::find(name)?)));
    for (name, file) in built
        .into_iter()
        .map(Ok)
        .chain(mkfs)
        .collect::<Result<Vec<_>, String>>()?
    {
        check_static(&file)?;
        put(&file, &dist.join(name))?;
    }
    Ok(dist)
}

/// Compiles our programs; name and file of each.
fn programs(workspace: &Path, quick: bool) -> Result<Vec<(String, PathBuf)>, String> {
    let metadata = metadata(workspace)?;
    let profile = profile(quick);
    let wanted: Vec<(&str, &str)> = PROGRAMS
        .iter()
        .filter(|(name, package, required)| *required || has_program(&metadata, package, name))
        .map(|(name, package, _)| (*name, *package))
        .collect();
    let mut command = cargo(workspace);
    command.args(["build", "--locked", "--profile", profile]);
    for (name, package) in &wanted {
        command.args(["--package", package, "--bin", name]);
    }
    loud(&mut command)?;
    let dir = programs_dir(&metadata, profile)?;
    Ok(wanted
        .iter()
        .map(|(name, _)| ((*name).to_owned(), dir.join(name)))
        .collect())
}

/// The cargo profile of what ships, or of the same built in seconds.
pub fn profile(quick: bool) -> &'static str {
    if quick { "quick" } else { "release" }
}

/// Where cargo puts programs of a profile.
///
/// # Errors
/// cargo's answer lacks the target directory.
pub fn programs_dir(metadata: &serde_json::Value, profile: &str) -> Result<PathBuf, String> {
    let target = metadata["target_directory"].as_str();
    let target = Path::new(target.ok_or("cargo metadata names no target directory")?);
    // .cargo/config.toml names the target, so cargo adds its directory.
    Ok(target.join("x86_64-unknown-linux-gnu").join(profile))
}

/// What `cargo metadata` says about the packages of the workspace.
///
/// # Errors
/// cargo fails.
pub fn metadata(workspace: &Path) -> Result<serde_json::Value, String> {
    let text =
        quiet(cargo(workspace).args(["metadata", "--format-version=1", "--no-deps", "--locked"]))?;
    serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))
}

/// Whether a package has a program of this name.
fn has_program(metadata: &serde_json::Value, package: &str, name: &str) -> bool {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages
        .filter(|p| p["name"] == package)
        .filter_map(|p| p["targets"].as_array())
        .flatten();
    targets
        .into_iter()
        .any(|target| target["name"] == name && target["kind"][0] == "bin")
}

/// Refuses a program that needs a dynamic linker or any shared library.
///
/// # Errors
/// What it needs.
pub fn check_static(file: &Path) -> Result<(), String> {
    let no = |why: &str| Err(format!("{} is not static: {why}", file.display()));
    let kind = quiet(program("file").arg("--brief").arg(file))?;
    if !kind.contains("statically linked") && !kind.contains("static-pie linked") {
        return no(kind.trim());
    }
    if let Some(needed) = quiet(program("readelf").args(["-dW"]).arg(file))?
        .lines()
        .find(|l| l.contains("(NEEDED)"))
    {
        return no(needed.trim());
    }
    if quiet(program("readelf").args(["-lW"]).arg(file))?.contains("INTERP") {
        return no("it has an interpreter");
    }
    Ok(())
}

fn put(from: &Path, to: &Path) -> Result<(), String> {
    let part = to.with_extension(format!("{}.part", std::process::id()));
    fs::copy(from, &part).map_err(at("copy", from))?;
    fs::rename(&part, to).map_err(at("write", to))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("x.c");
        fs::write(&source, "int main(void) { return 0; }\n").unwrap();
        let compile = |name: &str, flag: &str| {
            let out = dir.path().join(name);
            quiet(program("gcc").arg(flag).arg("-o").arg(&out).arg(&source)).unwrap();
            out
        };
        check_static(&compile("static", "-static")).unwrap();
        check_static(&compile("static-pie", "-static-pie")).unwrap();
        assert!(
            check_static(&compile("dynamic", "-pie"))
                .unwrap_err()
                .contains("dynamic")
        );
    }
}
