//! `cargo xtask boot`: the machine as a person would watch it. The first boot is of a factory-fresh disk with an empty
//! TPM, the second of what the first one left. Judged by console markers and by sfdisk, never by QEMU's exit status.

use std::path::Path;

use qemu::contract;
use qemu::evidence::{self, Partition};
use qemu::verdict::{Debian, POWER_OFF};
use qemu::{Boot, Disk, Machine, Off};

use crate::options::Options;
use crate::run::chain;
use crate::{image, setup};

/// One boot, as it went.
struct Went {
    name: &'static str,
    off: Off,
    /// Why it counts as failed.
    wrong: Option<String>,
}

/// Boots; false when a boot did not end in a running system.
///
/// # Errors
/// The image or the machine could not be made.
pub fn boot(workspace: &Path, options: &Options) -> Result<bool, String> {
    let dir = workspace.join("target/machine");
    let disk = dir.join("disk.raw");
    let kept = options.keep && disk.is_file();
    let mut machine = if kept {
        setup::ensure()?;
        let machine = Machine::existing(&dir, Boot::Disk).map_err(|error| chain(&error))?;
        machine.disk(Disk::existing(&disk))
    } else {
        let image = image::make(workspace, options)?;
        let machine = Machine::fresh(&dir, Boot::Disk).map_err(|error| chain(&error))?;
        machine.disk(Disk::copy_of(&image.disk, &disk).map_err(|error| chain(&error))?)
    };
    if options.interactive {
        eprintln!(
            "\nThe machine's console follows; Ctrl-A X switches it off, `--keep` boots it again.\n"
        );
        return machine
            .interactive()
            .map(|()| true)
            .map_err(|error| chain(&error));
    }
    machine = machine.live(true);
    let before = evidence::table(&disk).map_err(|error| chain(&error))?;
    let names: &[&'static str] = if kept {
        &["kept machine"]
    } else {
        &["first boot", "second boot"]
    };
    let mut boots = Vec::new();
    for &name in names {
        eprintln!("\n==== {name} ====\n");
        let went = once(&mut machine, name)?;
        let stop = went.wrong.is_some();
        boots.push(went);
        if stop {
            break;
        }
    }
    let after = evidence::table(&disk).map_err(|error| chain(&error))?;
    summary(&boots, &before, &after, &dir);
    Ok(boots.len() == names.len() && boots.iter().all(|went| went.wrong.is_none()))
}

/// One boot to a running system and an orderly power-off; a boot that goes wrong is no error but an outcome.
fn once(machine: &mut Machine, name: &'static str) -> Result<Went, String> {
    let mut running = machine.power_on().map_err(|error| chain(&error))?;
    let judged = Debian::boot(&mut running).and_then(|system| system.sound());
    if let Err(error) = judged {
        let off = running.power_cut();
        return Ok(Went {
            name,
            off,
            wrong: Some(chain(&error)),
        });
    }
    running
        .press_power_button()
        .map_err(|error| chain(&error))?;
    let off = running.wait_off(POWER_OFF).map_err(|error| chain(&error))?;
    Ok(Went {
        name,
        off,
        wrong: None,
    })
}

/// What `systemctl is-system-running` said.
fn state(off: &Off) -> Option<&str> {
    off.lines
        .iter()
        .find_map(|line| line.trim().strip_prefix("state="))
}

fn summary(boots: &[Went], before: &[Partition], after: &[Partition], dir: &Path) {
    println!("\n==== summary ====\n");
    for went in boots {
        println!("{}", went.name);
        for stage in went.off.stages() {
            println!(
                "  {:<10} {:<10} {:>7} ms",
                stage.name, stage.outcome, stage.ms
            );
        }
        match went
            .off
            .lines
            .iter()
            .find_map(|line| contract::handover(line))
        {
            Some(handover) => println!(
                "  {:<21} {:>7} ms  {}",
                "handover", handover.total_ms, handover.init
            ),
            None => println!("  no handover"),
        }
        println!("  system     {}", state(&went.off).unwrap_or("unknown"));
        match &went.wrong {
            Some(why) => println!("  FAILED: {why}"),
            None => println!("  passed"),
        }
        println!("  console    {}\n", went.off.log.display());
    }
    println!("partitions");
    for part in after {
        let there = before.iter().find(|old| old.uuid == part.uuid);
        let what = match there {
            None => "created",
            Some(old) if old.size != part.size => "grown",
            Some(_) => "kept",
        };
        println!("  {:<20} {:>6} MiB  {what}", part.name, part.size >> 20);
    }
    println!(
        "\nmachine    {} (`cargo xtask boot --keep --interactive` boots it again)",
        dir.display()
    );
}
