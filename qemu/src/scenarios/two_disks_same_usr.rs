//! Two disks carry the same `/usr`: neither is taken, both are named.

use crate::bench::Bench;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::{card, claim, refused};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "two-disks-same-usr",
    story: "a cloned disk is plugged in too",
    code: "boot-disk-ambiguous",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny();
    let disks = [system.disk("one")?, system.disk("other")?];
    let before = [bench.snapshot(&disks[0])?, bench.snapshot(&disks[1])?];
    let machine = system
        .direct()?
        .disk(disks[0].clone())
        .disk(disks[1].clone());
    let off = refused(bench, { machine }.power_on()?)?;
    for (name, (disk, before)) in ["/dev/vda", "/dev/vdb"]
        .into_iter()
        .zip(disks.iter().zip(&before))
    {
        claim(off.says(name), || {
            format!("the card does not name {name}:\n{}", card(&off.lines))
        })?;
        bench.unchanged(disk, before)?;
    }
    Ok(())
}
