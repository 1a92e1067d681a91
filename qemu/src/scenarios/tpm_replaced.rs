//! The second boot finds another TPM: nothing opens, and nothing is lost.

use crate::bench::Bench;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::{Tiny, refused};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "tpm-replaced",
    story: "another TPM at the second boot",
    code: "tpm-replaced",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let mut machine = bench.tiny().machine()?;
    Tiny::boot(machine.power_on()?)?.sound(1)?;
    let before = bench.snapshot(&machine.disks()[0])?;
    machine.replace_tpm()?;
    refused(bench, machine.power_on()?)?;
    bench.unchanged(&machine.disks()[0], &before)
}
