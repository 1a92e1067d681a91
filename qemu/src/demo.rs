//! The demonstration: a disk boots twice while somebody watches, and a short summary at the end.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::contract::{self, Handover, Stage};
use crate::disk::Disk;
use crate::error::Result;
use crate::machine::{Boot, Machine};
use crate::verdict::{Debian, POWER_OFF};

/// How to boot.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the machine keeps its disk, firmware variables, TPM and logs. It is emptied first.
    pub dir: PathBuf,
    /// Whether the console is shown while it runs.
    pub live: bool,
    /// Memory in MiB.
    pub memory_mib: u32,
}

/// One boot of the demonstration.
#[derive(Debug)]
pub struct Demonstrated {
    /// The stages as they were reported.
    pub stages: Vec<Stage>,
    /// The end of our work.
    pub handover: Handover,
    /// What the booted system says about itself: `running` if all is well.
    pub state: String,
    /// From power-on to the system's own report, on this host.
    pub took: Duration,
}

/// Both boots.
#[derive(Debug)]
pub struct Summary {
    /// The boot of the factory-fresh disk.
    pub first: Demonstrated,
    /// The boot of what that one made.
    pub second: Demonstrated,
    /// The machine's directory.
    pub dir: PathBuf,
}

/// Boots a copy of `image` twice, through UEFI and with a TPM; an error if one of the systems is not content.
pub fn boot_twice(image: &Path, options: &Options) -> Result<Summary> {
    let machine = Machine::fresh(&options.dir, Boot::Disk)?
        .memory(options.memory_mib)
        .live(options.live);
    let disk = Disk::copy_of(image, &options.dir.join("disk.raw"))?;
    let mut machine = machine.disk(disk);
    let (first, second) = (once(&mut machine)?, once(&mut machine)?);
    Ok(Summary {
        first,
        second,
        dir: machine.dir().to_path_buf(),
    })
}

fn once(machine: &mut Machine) -> Result<Demonstrated> {
    let started = Instant::now();
    let mut running = machine.power_on()?;
    let system = Debian::boot(&mut running)?;
    let took = started.elapsed();
    system.sound()?;
    running.press_power_button()?;
    running.wait_off(POWER_OFF)?;
    let Debian {
        state,
        handover,
        lines,
    } = system;
    Ok(Demonstrated {
        stages: contract::stages(&lines),
        handover,
        state,
        took,
    })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>18} {:>18}",
            "stage", "first boot", "second boot"
        )?;
        for stage in &self.first.stages {
            let second = self
                .second
                .stages
                .iter()
                .find(|other| other.name == stage.name);
            let second = second.map(cell).unwrap_or_default();
            writeln!(f, "{:<12} {:>18} {second:>18}", stage.name, cell(stage))?;
        }
        let total = |boot: &Demonstrated| format!("{} ms", boot.handover.total_ms);
        writeln!(
            f,
            "{:<12} {:>18} {:>18}",
            "handover",
            total(&self.first),
            total(&self.second)
        )?;
        let wall = |boot: &Demonstrated| format!("{:.0} s", boot.took.as_secs_f64());
        writeln!(
            f,
            "{:<12} {:>18} {:>18}",
            "power to up",
            wall(&self.first),
            wall(&self.second)
        )?;
        writeln!(
            f,
            "{:<12} {:>18} {:>18}",
            "system", self.first.state, self.second.state
        )?;
        write!(f, "logs, disk and TPM: {}", self.dir.display())
    }
}

fn cell(stage: &Stage) -> String {
    format!("{} {:>6} ms", stage.outcome, stage.ms)
}
