//! The power fails three times while the first boot lays the disk out; the boot after that finishes the job.

use crate::bench::Bench;
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
    let disk = machine.disks()[0].clone();
    let factory = bench.snapshot(&disk)?;
    // In the first volume's header, then among its file system, then just before the volumes are opened.
    for (written, partitions) in [(Some(64 << 10), 3), (Some(4 << 20), 3), (None, 9)] {
        let mut running = machine.power_on()?;
        match written {
            Some(bytes) => {
                running.wait_for(&["stage=reset"], BOOT)?;
                disk.wait_written(bytes, BOOT)?;
            }
            None => drop(running.wait_for(&["stage=repart"], BOOT)?),
        }
        let off = running.power_cut();
        claim(!off.says("stage=unlock"), || {
            format!("the cut came too late, see {}", off.log.display())
        })?;
        let found = evidence::table(&disk.path)?.len();
        claim(found == partitions, || {
            format!("{found} partitions after the cut, not {partitions}")
        })?;
        evidence::kept(&factory, &disk.path)?;
    }
    Tiny::boot(machine.power_on()?)?.sound(1)?;
    evidence::kept(&factory, &disk.path)?;
    [ROOT, SWAP, HOME]
        .into_iter()
        .try_for_each(|kind| evidence::sealed(&disk.path, kind))
}
