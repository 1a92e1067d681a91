//! The UKI carries no PCR signature: volumes are sealed to the value of PCR 7 and open again.

use crate::bench::Bench;
use crate::error::Result;
use crate::runner::Scenario;
use crate::verdict::{Tiny, claim};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "unsigned",
    story: "nothing: no PCR signature, two boots",
    code: "",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let mut machine = bench.tiny().unsigned().machine()?;
    for boot in 1..=2 {
        let tiny = Tiny::boot(machine.power_on()?)?;
        tiny.sound(boot)?;
        claim(tiny.off.says("measured=yes policy=pcr7"), || {
            "the agent does not say that it seals to PCR 7".to_owned()
        })?;
    }
    Ok(())
}
