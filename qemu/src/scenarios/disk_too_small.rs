//! The definitions do not fit: the card says by how much, and nothing is written.

use crate::bench::Bench;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::refused;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "disk-too-small",
    story: "a disk without room",
    code: "disk-too-small",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny().disk_mib(400);
    let disk = system.disk("disk")?;
    let before = bench.snapshot(&disk)?;
    refused(bench, system.direct()?.disk(disk.clone()).power_on()?)?;
    bench.unchanged(&disk, &before)
}
