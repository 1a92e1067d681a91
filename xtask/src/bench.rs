//! `cargo xtask bench`: the figures of README. Times are counted instructions (one virtual CPU, one nanosecond each), so
//! that they repeat however busy the host is.

use std::path::Path;

use fixtures::Flavour;

use crate::options::Options;
use crate::run::{at, chain, program, quiet};
use crate::{dist, image, scenarios};

/// MiB with which a first boot works for certain; the search for the least starts there.
const ENOUGH_MEMORY: u32 = 1024;

/// Prints the figures.
///
/// # Errors
/// Something could not be built or did not boot.
pub fn bench(workspace: &Path, options: &Options) -> Result<bool, String> {
    let dist = dist::build(workspace, options.quick)?;
    let ctx = scenarios::context(workspace, &dist, options, "target/bench")?;
    sizes(workspace, &dist, options)?;
    let bench = ctx.bench("times").map_err(|error| chain(&error))?;
    let times = qemu::measure::times(&bench.tiny()).map_err(|error| chain(&error))?;
    print!("{times}");
    let bench = ctx.bench("memory").map_err(|error| chain(&error))?;
    let least = qemu::measure::smallest_memory(&bench, &bench.tiny(), ENOUGH_MEMORY);
    println!(
        "smallest memory of a first boot: {} MiB",
        least.map_err(|error| chain(&error))?
    );
    Ok(true)
}

/// Bytes of the initrds, and of one without modules.
fn sizes(workspace: &Path, dist: &Path, options: &Options) -> Result<(), String> {
    let cache = image::cache()?;
    for (name, flavour) in [("cloud", Flavour::Cloud), ("generic", Flavour::Generic)] {
        let kernel = fixtures::kernel(&cache, flavour).map_err(|error| chain(&error))?;
        let initrd = workspace.join(format!("target/bench/initrd-{name}.img"));
        image::pack(dist, &kernel, "btrfs,ext4", &initrd, options.quick)?;
        let bytes = std::fs::metadata(&initrd)
            .map_err(at("read", &initrd))?
            .len();
        println!("initrd, Debian's {name} kernel: {bytes} bytes");
    }
    let script = "tar --sort=name --mtime=@0 --owner=0 --group=0 -c init mkfs.btrfs mkfs.ext4 | zstd -19 -c | wc -c";
    let bare = quiet(
        program("bash")
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(dist),
    )?;
    println!("the same without modules: {} bytes", bare.trim());
    Ok(())
}
