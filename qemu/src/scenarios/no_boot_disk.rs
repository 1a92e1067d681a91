//! No disk carries what `usrhash=` names: the message says what is missing and what was seen.

use crate::bench::Bench;
use crate::disk::Disk;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::{card, claim, refused};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "no-boot-disk",
    story: "only a foreign disk",
    code: "boot-disk-missing",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny();
    let disk = Disk::blank(&bench.dir.join("foreign.raw"), 64 << 20)?;
    let before = bench.snapshot(&disk)?;
    let off = refused(bench, system.direct()?.disk(disk.clone()).power_on()?)?;
    let missing = system.usr()?.partition_uuids().0;
    claim(off.says(&missing), || {
        format!("the card does not name {missing}:\n{}", card(&off.lines))
    })?;
    claim(off.says("/dev/vda"), || {
        format!("the card does not name /dev/vda:\n{}", card(&off.lines))
    })?;
    bench.unchanged(&disk, &before)
}
