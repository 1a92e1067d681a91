//! One byte of the first block of `/usr` is not what it was.

use crate::bench::Bench;
use crate::error::Result;
use crate::evidence::{self, USR};
use crate::runner::Scenario;
use crate::verdict::refused;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "flipped-byte-early",
    story: "a flipped byte in the first block of /usr",
    code: "usr-wrong-hash",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny();
    let disk = system.disk("disk")?;
    let usr = evidence::of_type(&disk.path, USR)?;
    disk.flip(usr.offset + 1100)?;
    let before = bench.snapshot(&disk)?;
    refused(bench, system.direct()?.disk(disk.clone()).power_on()?)?;
    bench.unchanged(&disk, &before)
}
