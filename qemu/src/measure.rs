//! Figures for the README: time by counted instructions, which repeats on a busy host, and the smallest memory.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Bench, System};
use crate::contract::{self, Handover, Stage};
use crate::disk::copy;
use crate::error::Result;
use crate::machine::Clock;
use crate::verdict::Tiny;

/// The smallest step of the search for memory, in MiB.
const STEP: u32 = 16;
/// Below this much the firmware itself does not start.
const LEAST: u32 = 64;
/// A boot with too little memory mostly ends in the firmware's shell or a panic, now and then in silence.
const SILENCE: Duration = Duration::from_secs(150);

/// One measured boot.
#[derive(Debug, Clone)]
pub struct Measured {
    /// From our first instruction to the exec of the real init.
    pub handover: Handover,
    /// Its parts.
    pub stages: Vec<Stage>,
    /// The most memory that our PID 1 had, by its own report.
    pub peak_memory_kib: Option<u64>,
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
        let tiny = Tiny::boot(machine.power_on()?)?;
        let report: Option<Value> = serde_json::from_str(&tiny.section("report").join("\n")).ok();
        let peak = report
            .as_ref()
            .and_then(|report| report.pointer("/agent/peak_memory_kib"));
        let peak_memory_kib = peak.and_then(Value::as_u64).filter(|kib| *kib > 0);
        Ok::<_, crate::Error>(Measured {
            stages: tiny.off.stages(),
            handover: tiny.handover,
            peak_memory_kib,
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
            let total = boot.handover.total_ms;
            writeln!(
                f,
                "{name} boot: {total} ms of instructions ({})",
                stages.join(", ")
            )?;
            if let Some(kib) = boot.peak_memory_kib {
                writeln!(f, "{name} boot: {kib} KiB of memory at most in init")?;
            }
        }
        Ok(())
    }
}
