//! The demonstration: a stock Debian 13 boots twice from the disk that its first boot laid out.

use crate::bench::Bench;
use crate::error::Result;
use crate::evidence::{self, HOME, ROOT, SWAP};
use crate::runner::Scenario;
use crate::verdict::{Debian, POWER_OFF, claim};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "debian",
    story: "nothing: a real Debian, first and second boot",
    code: "",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let mut machine = bench.debian().machine()?;
    for boot in 1..=2 {
        let mut running = machine.power_on()?;
        Debian::boot(&mut running)?.sound()?;
        let off = running.wait_off(POWER_OFF)?;
        claim(!off.says("Timed out waiting"), || {
            format!(
                "a unit waited in vain in boot {boot}, see {}",
                off.log.display()
            )
        })?;
    }
    let disk = &machine.disks()[0].path;
    [ROOT, SWAP, HOME]
        .into_iter()
        .try_for_each(|kind| evidence::sealed(disk, kind))
}
