//! A factory-fresh machine: the first boot lays the disk out and keeps what was there.

use crate::bench::Bench;
use crate::error::Result;
use crate::evidence::{self, HOME, ROOT, SWAP};
use crate::runner::Scenario;
use crate::verdict::{Tiny, claim};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "first-boot",
    story: "nothing: first boot",
    code: "",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let mut machine = bench.tiny().machine()?;
    let factory = bench.snapshot(&machine.disks()[0])?;
    let tiny = Tiny::boot(machine.power_on()?)?;
    tiny.sound(1)?;
    tiny.is("root", "btrfs")?;
    tiny.is("home-fs", "btrfs")?;
    let names: Vec<_> = tiny
        .off
        .stages()
        .into_iter()
        .map(|stage| stage.name)
        .collect();
    let wanted = [
        "early", "devices", "usr", "reset", "repart", "unlock", "root", "measure",
    ];
    claim(names.starts_with(&wanted.map(str::to_owned)), || {
        format!("stages {names:?}")
    })?;
    let disk = &machine.disks()[0].path;
    evidence::kept(&factory, disk)?;
    claim(evidence::table(disk)?.len() == 9, || {
        "there are not nine partitions".to_owned()
    })?;
    [ROOT, SWAP, HOME]
        .into_iter()
        .try_for_each(|kind| evidence::sealed(disk, kind))
}
