//! The root hash on the command line is not the one of the contents.

use crate::bench::Bench;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::{claim, refused};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "wrong-usrhash",
    story: "usrhash= of another system",
    code: "usr-wrong-hash",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny().wrong_hash();
    let disk = system.disk("disk")?;
    let before = bench.snapshot(&disk)?;
    let off = refused(bench, system.direct()?.disk(disk.clone()).power_on()?)?;
    claim(
        off.stages()
            .iter()
            .any(|stage| stage.name == "usr" && stage.outcome == "failed"),
        || "not at usr".to_owned(),
    )?;
    bench.unchanged(&disk, &before)
}
