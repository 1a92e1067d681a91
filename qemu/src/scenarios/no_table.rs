//! Both partition tables are lost: there is no boot disk, and nobody makes a new table.

use crate::bench::Bench;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::refused;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "no-table",
    story: "both partition tables zeroed",
    code: "boot-disk-missing",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny();
    let disk = system.disk("disk")?;
    disk.zero(0, 34 * 512)?;
    disk.zero((1 << 30) - 33 * 512, 33 * 512)?;
    let before = bench.snapshot(&disk)?;
    refused(bench, system.direct()?.disk(disk.clone()).power_on()?)?;
    bench.unchanged(&disk, &before)
}
