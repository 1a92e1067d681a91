//! The free space is full of old data that discarding does not remove: what is wiped late must not hit new contents.

use crate::bench::Bench;
use crate::error::Result;
use crate::evidence::{self, HOME, ROOT, SWAP};
use crate::runner::Scenario;
use crate::verdict::Tiny;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "used-disk",
    story: "nothing: a disk full of old data, two boots",
    code: "",
    run,
};

const MIB: u64 = 1 << 20;

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny();
    let disk = system.disk("disk")?;
    let last = evidence::table(&disk.path)?
        .iter()
        .map(|partition| partition.offset + partition.size)
        .max()
        .unwrap_or(0);
    let end = 1024 * MIB - MIB;
    let disk = disk.used(last, end - last)?;
    let mut machine = system.handed_over()?.disk(disk);
    for boot in 1..=2 {
        Tiny::boot(machine.power_on()?)?.sound(boot)?;
    }
    let disk = &machine.disks()[0].path;
    [ROOT, SWAP, HOME]
        .into_iter()
        .try_for_each(|kind| evidence::sealed(disk, kind))
}
