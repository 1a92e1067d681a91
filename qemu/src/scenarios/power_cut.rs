//! The power fails twice while the first boot lays the disk out; the boot after that finishes the job.

use std::time::Duration;

use crate::bench::Bench;
use crate::contract;
use crate::error::Result;
use crate::evidence::{self, HOME, ROOT, SWAP};
use crate::runner::Scenario;
use crate::verdict::{BOOT, Tiny, claim};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "power-cut",
    story: "power cuts during the first boot",
    code: "",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let mut machine = bench.tiny().machine()?;
    let factory = bench.snapshot(&machine.disks()[0])?;
    for (marker, later) in [("stage=reset", 700), ("stage=repart", 0)] {
        let mut running = machine.power_on()?;
        running.wait_for(&[marker], BOOT)?;
        std::thread::sleep(Duration::from_millis(later));
        let off = running.power_cut();
        claim(!off.says(contract::HANDOVER), || {
            format!("too late: {marker} plus {later} ms")
        })?;
        evidence::kept(&factory, &machine.disks()[0].path)?;
    }
    Tiny::boot(machine.power_on()?)?.sound(1)?;
    let disk = &machine.disks()[0].path;
    evidence::kept(&factory, disk)?;
    [ROOT, SWAP, HOME]
        .into_iter()
        .try_for_each(|kind| evidence::sealed(disk, kind))
}
