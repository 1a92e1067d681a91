//! The second boot opens what the first one made and changes nothing on the disk.

use crate::bench::Bench;
use crate::error::Result;
use crate::evidence;
use crate::runner::Scenario;
use crate::verdict::{Tiny, claim};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "second-boot",
    story: "nothing: second boot",
    code: "",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let mut machine = bench.tiny().machine()?;
    Tiny::boot(machine.power_on()?)?.sound(1)?;
    let before = evidence::table(&machine.disks()[0].path)?;
    let second = Tiny::boot(machine.power_on()?)?;
    second.sound(2)?;
    let repart = second
        .off
        .stages()
        .into_iter()
        .find(|stage| stage.name == "repart");
    claim(
        repart
            .as_ref()
            .is_some_and(|stage| stage.outcome == "unchanged"),
        || format!("{repart:?}"),
    )?;
    claim(evidence::table(&machine.disks()[0].path)? == before, || {
        "the partition table changed".to_owned()
    })
}
