//! The first sectors of the disk are lost: the backup table at its end is as good.

use crate::bench::Bench;
use crate::error::Result;
use crate::evidence::{self, HOME, ROOT, SWAP};
use crate::runner::Scenario;
use crate::verdict::Tiny;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "torn-table",
    story: "a zeroed primary partition table",
    code: "",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny();
    let disk = system.disk("disk")?;
    let factory = bench.snapshot(&disk)?;
    disk.zero(512, 33 * 512)?;
    let mut machine = system.handed_over()?.disk(disk.clone());
    Tiny::boot(machine.power_on()?)?.sound(1)?;
    evidence::kept(&factory, &disk.path)?;
    [ROOT, SWAP, HOME]
        .into_iter()
        .try_for_each(|kind| evidence::sealed(&disk.path, kind))
}
