//! An older machine: the generic kernel, a SATA disk, `/usr` as squashfs.

use fixtures::{FileSystem, Flavour};

use crate::bench::Bench;
use crate::disk::Bus;
use crate::error::Result;
use crate::evidence::{self, ROOT};
use crate::runner::Scenario;
use crate::verdict::Tiny;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "generic-ahci",
    story: "nothing: generic kernel, AHCI, squashfs",
    code: "",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench
        .tiny()
        .flavour(Flavour::Generic)
        .bus(Bus::Ahci)
        .file_system(FileSystem::Squashfs);
    let mut machine = system.machine()?;
    let tiny = Tiny::boot(machine.power_on()?)?;
    tiny.is("usr", "squashfs")?;
    tiny.sound(1)?;
    evidence::sealed(&machine.disks()[0].path, ROOT)
}
