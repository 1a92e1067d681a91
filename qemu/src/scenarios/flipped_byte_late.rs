//! A byte of `/usr` that is read only later is wrong: by policy the kernel panics, whoever reads it.

use crate::bench::Bench;
use crate::error::{Result, file};
use crate::evidence::{self, USR};
use crate::runner::Scenario;
use crate::verdict::{BOOT, POWER_OFF, claim};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "flipped-byte-late",
    story: "a flipped byte in the program that takes over",
    code: "",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench.tiny();
    let disk = system.disk("disk")?;
    let (usr, image) = (evidence::of_type(&disk.path, USR)?, system.usr()?);
    let length = std::fs::metadata(&image.data)
        .map_err(file("inspect", &image.data))?
        .len();
    // The middle of the image is the middle of the only large file, the init.
    disk.flip(usr.offset + length / 2)?;
    let before = bench.snapshot(&disk)?;
    let mut running = system.handed_over()?.disk(disk.clone()).power_on()?;
    let panic = [
        "Kernel panic - not syncing: dm-verity device",
        "device-mapper: verity: dm-verity device",
    ];
    running.wait_for(&panic, BOOT)?;
    let off = running.wait_off(POWER_OFF)?;
    claim(!off.says("Attempted to kill init"), || {
        format!("our own PID 1 died, see {}", off.log.display())
    })?;
    evidence::kept(&before, &disk.path)
}
