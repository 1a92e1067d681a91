//! There is no TPM, and the definitions ask for one.

use crate::bench::Bench;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::refused;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "no-tpm",
    story: "first boot without a TPM",
    code: "tpm-missing",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny().tpm(None);
    let disk = system.disk("disk")?;
    let before = bench.snapshot(&disk)?;
    refused(bench, system.direct()?.disk(disk.clone()).power_on()?)?;
    bench.unchanged(&disk, &before)
}
