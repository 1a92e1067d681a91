//! Figures for the README: time by counted instructions, which repeats on a busy host, and the smallest memory.

use std::fmt;
use std::time::Duration;

use crate::bench::{Bench, System};
use crate::contract::{self, Handover, Stage};
use crate::disk::copy;
use crate::error::Result;
use crate::machine::Clock;
use crate::verdict;

/// The smallest step of the search for memory, in MiB.
const STEP: u32 = 16;
/// Below this much the firmware itself does not start.
const LEAST: u32 = 64;
/// A boot that has too little memory mostly ends in a panic, now and then in silence.
const SILENCE: Duration = Duration::from_secs(150);

/// One measured boot.
#[derive(Debug, Clone)]
pub struct Measured {
    /// From our first instruction to the exec of the real init.
    pub handover: Handover,
    /// Its parts.
    pub stages: Vec<Stage>,
}

/// First and second boot under counted instructions.
#[derive(Debug, Clone)]
pub struct Times {
    /// The boot that lays the disk out.
    pub first: Measured,
    /// The boot that finds everything made.
    pub second: Measured,
}

/// Measures both boots with one CPU and one nanosecond an instruction. The tiny system tells nothing about what comes
/// after the hand-over, but all before it is the same as with a large one.
pub fn times(system: &System<'_>) -> Result<Times> {
    let mut machine = system.machine()?.clock(Clock::Instructions);
    let mut once = || {
        let mut running = machine.power_on()?;
        let handover = verdict::handover(&mut running)?;
        running.wait_for(&["TINY-INIT-END"], verdict::BOOT)?;
        let off = running.wait_off(verdict::POWER_OFF)?;
        Ok::<_, crate::Error>(Measured {
            handover,
            stages: off.stages(),
        })
    };
    Ok(Times {
        first: once()?,
        second: once()?,
    })
}

/// The smallest memory in MiB with which a first boot reaches the hand-over; `enough` has to suffice.
pub fn smallest_memory(bench: &Bench<'_>, system: &System<'_>, enough: u32) -> Result<u32> {
    let mut machine = system.machine()?;
    let disk = machine.disks().to_vec();
    let factory = disk
        .iter()
        .map(|disk| bench.snapshot(disk))
        .collect::<Result<Vec<_>>>()?;
    let (mut too_little, mut enough) = (LEAST, enough);
    while enough - too_little > STEP {
        let middle = too_little + (enough - too_little) / 2 / STEP * STEP;
        for (disk, image) in disk.iter().zip(&factory) {
            copy(image, &disk.path)?;
        }
        machine.replace_tpm()?;
        machine = machine.memory(middle);
        let seen = machine
            .power_on()?
            .wait_for(&[contract::HANDOVER, contract::FAILED], SILENCE);
        match seen {
            Ok(seen) if seen.which == 0 => enough = middle,
            _ => too_little = middle,
        }
    }
    Ok(enough)
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, boot) in [("first", &self.first), ("second", &self.second)] {
            let stages: Vec<_> = boot
                .stages
                .iter()
                .map(|stage| format!("{} {}", stage.name, stage.ms))
                .collect();
            writeln!(
                f,
                "{name} boot: {} ms of instructions ({})",
                boot.handover.total_ms,
                stages.join(", ")
            )?;
        }
        Ok(())
    }
}
