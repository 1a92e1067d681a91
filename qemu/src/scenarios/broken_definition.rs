//! A definition in the verified `/usr` cannot be read: nothing is written.

use crate::bench::Bench;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::{card, claim, refused};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "broken-definition",
    story: "a repart.d file with an impossible size",
    code: "definitions-invalid",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench
        .tiny()
        .definition("45-broken.conf", "Type=linux-generic\nSizeMinBytes=a lot");
    let disk = system.disk("disk")?;
    let before = bench.snapshot(&disk)?;
    let off = refused(bench, system.direct()?.disk(disk.clone()).power_on()?)?;
    claim(off.says("45-broken.conf"), || {
        format!("the card does not name the file:\n{}", card(&off.lines))
    })?;
    bench.unchanged(&disk, &before)
}
