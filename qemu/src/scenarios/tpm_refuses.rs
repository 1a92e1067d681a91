//! The TPM belongs to somebody: it answers, but gives no key out under its owner hierarchy. Nothing is written.

use crate::bench::Bench;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::refused;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "tpm-refuses",
    story: "a TPM whose earlier owner left a password",
    code: "tpm-seal-failed",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny();
    let disk = system.disk("disk")?;
    let before = bench.snapshot(&disk)?;
    let mut machine = system.handed_over()?.disk(disk.clone());
    machine.own_tpm()?;
    refused(bench, machine.power_on()?)?;
    bench.unchanged(&disk, &before)
}
