//! The initrd lacks the mkfs program that a definition needs: refused before anything is written.

use crate::bench::Bench;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::{card, claim, refused};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "missing-mkfs",
    story: "an initrd packed without mkfs.btrfs",
    code: "mkfs-missing",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny().mkfs("ext4");
    let disk = system.disk("disk")?;
    let before = bench.snapshot(&disk)?;
    let off = refused(bench, system.direct()?.disk(disk.clone()).power_on()?)?;
    claim(off.says("mkfs.btrfs"), || {
        format!("the card does not name the program:\n{}", card(&off.lines))
    })?;
    bench.unchanged(&disk, &before)
}
