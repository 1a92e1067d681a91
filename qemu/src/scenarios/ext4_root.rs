//! The root file system is ext4: first and second boot.

use crate::bench::Bench;
use crate::error::Result;
use crate::evidence::{self, ROOT};
use crate::runner::Scenario;
use crate::verdict::Tiny;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "ext4-root",
    story: "nothing: ext4 root, two boots",
    code: "",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let root = "Type=root\nFormat=ext4\nEncrypt=tpm2\nSizeMinBytes=320M\nSizeMaxBytes=320M";
    let mut machine = bench.tiny().definition("30-root.conf", root).machine()?;
    for boot in 1..=2 {
        let tiny = Tiny::boot(machine.power_on()?)?;
        tiny.is("root", "ext4")?;
        tiny.sound(boot)?;
    }
    evidence::sealed(&machine.disks()[0].path, ROOT)
}
