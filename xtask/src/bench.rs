//! `cargo xtask bench`: the figures of README, with the machine's clock counting instructions, so that they repeat
//! however busy the host is.

use std::path::Path;
use std::time::Duration;

use qemu::contract::{self, FAILED, HANDOVER};
use qemu::{Boot, Clock, Disk, Machine};

use crate::image;
use crate::options::Options;
use crate::run::{at, chain};

/// With counted instructions a boot takes several times as long as without.
const DEADLINE: Duration = Duration::from_secs(1800);

/// Prints the figures.
///
/// # Errors
/// The image could not be made or did not boot.
pub fn bench(workspace: &Path, options: &Options) -> Result<bool, String> {
    let image = image::make(workspace, options)?;
    let initrd = std::fs::metadata(&image.initrd)
        .map_err(at("read", &image.initrd))?
        .len();
    let bare = without_modules(workspace)?;
    let dir = workspace.join("target/bench");
    let machine = Machine::fresh(&dir, Boot::Disk).map_err(|error| chain(&error))?;
    let disk = Disk::copy_of(&image.disk, &dir.join("disk.raw")).map_err(|error| chain(&error))?;
    let mut machine = machine.disk(disk).cpus(1).clock(Clock::Instructions);
    println!("initrd, bytes                       {initrd:>10}");
    println!("initrd without modules, bytes       {bare:>10}");
    for name in ["first boot", "second boot"] {
        let mut running = machine.power_on().map_err(|error| chain(&error))?;
        let seen = running
            .wait_for(&[HANDOVER, FAILED], DEADLINE)
            .map_err(|error| chain(&error))?;
        let off = running.power_cut();
        let Some(handover) = contract::handover(&seen.line) else {
            return Err(format!("{name}: {}", seen.line));
        };
        println!(
            "{name}, exec /init to handover, ms {:>10}",
            handover.total_ms
        );
        for stage in off.stages() {
            println!(
                "  {:<10} {:<10} {:>20} ms",
                stage.name, stage.outcome, stage.ms
            );
        }
    }
    Ok(true)
}

/// `init` and the mkfs programs alone, as `zstd -19` packs them.
fn without_modules(workspace: &Path) -> Result<usize, String> {
    let script = "cd target/dist && tar --sort=name --mtime=@0 --owner=0 --group=0 -c init mkfs.btrfs mkfs.ext4 | zstd -19 -c";
    let mut shell = crate::run::program("bash");
    let output = shell
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(workspace)
        .output()
        .map_err(|error| format!("cannot run bash: {error}"))?;
    if !output.status.success() {
        return Err(format!("zstd: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(output.stdout.len())
}
