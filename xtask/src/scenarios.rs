//! The virtual machine scenarios, as `cargo xtask test` runs them. Owns: what they are given to boot.

use std::path::Path;

use crate::dist;
use crate::options::Options;
use crate::run::{cargo, loud};

/// Runs all scenarios and reports each check by name.
pub fn run(workspace: &Path, options: &Options, report: impl FnOnce(&str, Result<(), String>)) {
    report("virtual machine scenarios", all(workspace, options));
}

fn all(workspace: &Path, options: &Options) -> Result<(), String> {
    let metadata = dist::metadata(workspace)?;
    if !dist::has_target(&metadata, "qemu", "scenarios", "test") {
        return Err("crate qemu has no test target `scenarios` yet".to_owned());
    }
    let mut test = cargo(workspace);
    test.args([
        "test",
        "--locked",
        "--package",
        "qemu",
        "--test",
        "scenarios",
    ]);
    test.env("INITRD_AGENT_DIST", workspace.join("target/dist"));
    test.env("INITRD_AGENT_QUICK", if options.quick { "1" } else { "0" });
    loud(&mut test)
}
