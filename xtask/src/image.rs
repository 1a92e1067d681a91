//! `cargo xtask image`: initrd, unified kernel image and factory disk of the demonstration system, in `target/image`.

use std::fs;
use std::path::{Path, PathBuf};

use fixtures::{Cache, DiskSpec, Kernel, Signing, UkiSpec, UsrImage};

use crate::options::Options;
use crate::run::{at, chain, program, quiet, step};
use crate::{dist, setup};

/// File systems the demonstration system's definitions ask for.
const MKFS: &str = "btrfs,ext4";

/// `panic=-1` lets QEMU end when a kernel panics; `quiet` with status lines is what a person wants to watch.
const CMDLINE: &str = "rw console=ttyS0 quiet systemd.show_status=1 panic=-1";

/// What was made.
#[derive(Debug)]
pub struct Image {
    /// The initrd.
    pub initrd: PathBuf,
    /// The unified kernel image.
    pub uki: PathBuf,
    /// The factory disk.
    pub disk: PathBuf,
}

/// Makes everything that is not cached.
///
/// # Errors
/// What could not be made.
pub fn make(workspace: &Path, options: &Options) -> Result<Image, String> {
    // mmdebstrap keeps the owners of the system's files.
    if !setup::is_root()? {
        return Err("an image has files of several owners, so this needs root; run\n  \
                    sudo --preserve-env=HOME,PATH,CARGO_HOME,RUSTUP_HOME env PATH=\"$PATH\" cargo xtask …"
            .to_owned());
    }
    let dist = dist::build(workspace, options.quick)?;
    let out = workspace.join("target/image");
    fs::create_dir_all(&out).map_err(at("create", &out))?;
    let cache = cache()?;
    let kernel = step("kernel", || {
        fixtures::kernel(&cache, options.flavour).map_err(|error| chain(&error))
    })?;
    let usr = step("Debian /usr", || {
        fixtures::debian(&cache, options.flavour, options.file_system)
            .map_err(|error| chain(&error))
    })?;
    let initrd = out.join("initrd.img");
    let report = step("initrd", || {
        pack(&dist, &kernel, MKFS, &initrd, options.quick)
    })?;
    eprint!("{report}");
    let uki = out.join("image.efi");
    step("unified kernel image", || {
        unify(&cache, &kernel, &usr, &initrd, options, &uki)
    })?;
    let disk = out.join("disk.raw");
    step("disk", || {
        let spec = DiskSpec::new(options.size << 30, &uki, &usr);
        fixtures::disk(&spec, &disk).map_err(|error| chain(&error))
    })?;
    Ok(Image { initrd, uki, disk })
}

/// The fixtures' cache; its steps are told.
pub fn cache() -> Result<Cache, String> {
    let cache = Cache::user().map_err(|error| chain(&error))?;
    Ok(cache.with_progress(|progress| {
        if let Some(took) = progress.took {
            eprintln!("  {:<26} {:>6.1} s", progress.step, took.as_secs_f32());
        }
    }))
}

/// Runs our own `pack`, as an image builder would, and returns its report.
pub fn pack(
    dist: &Path,
    kernel: &Kernel,
    mkfs: &str,
    initrd: &Path,
    quick: bool,
) -> Result<String, String> {
    let mut pack = program(&dist.join("initrd-agent").display().to_string());
    pack.arg("pack").arg("--tree").arg(&kernel.tree).args([
        "--kernel",
        &kernel.version,
        "--mkfs",
        mkfs,
    ]);
    pack.arg("--output")
        .arg(initrd)
        .args(["--level", if quick { "3" } else { "19" }]);
    quiet(&mut pack)
}

fn unify(
    cache: &Cache,
    kernel: &Kernel,
    usr: &UsrImage,
    initrd: &Path,
    options: &Options,
    out: &Path,
) -> Result<(), String> {
    let key = fixtures::signing_key(cache, "pcr").map_err(|error| chain(&error))?;
    let signing = Signing::initrd_only(&key);
    let cmdline = format!("usrhash={} {CMDLINE} {}", usr.root_hash, options.cmdline);
    let spec = UkiSpec {
        kernel,
        initrd,
        cmdline: cmdline.trim_end(),
        os_release: &usr.os_release,
        signing: (!options.unsigned).then_some(&signing),
    };
    let made = fixtures::uki(cache, &spec).map_err(|error| chain(&error))?;
    fs::copy(&made, out).map(drop).map_err(at("copy", &made))
}
