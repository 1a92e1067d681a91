//! `cargo xtask bench repart`: planning alone, and one job (ext4 with files, swap, 2 GiB, offline) side by side with
//! Debian's systemd-repart. Invariant: the two take turns on the same machine, with the same mkfs, and every image is
//! looked at with other people's tools before its time counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::debian::Apt;
use crate::options::Options;
use crate::run::{at, cargo, loud, program, quiet, step};
use crate::{image, peer};

/// Runs of each program, in turns.
const RUNS: usize = 15;
/// Two runs of the same program differ by as much.
const TOLERANCE: f64 = 1.05;
/// Files copied into the root file system, and bytes of each.
const FILES: (usize, usize) = (600, 100_000);
/// Suites to take the peer from, best first.
const SUITES: [&str; 2] = ["forky", "trixie"];

/// Prints all figures; false if planning is over its budget or we are slower than the peer.
///
/// # Errors
/// Something could not be built, fetched or run.
pub fn bench(workspace: &Path, options: &Options) -> Result<bool, String> {
    let dist = peer::programs(workspace, options)?;
    let planning = loud(cargo(workspace).args([
        "run",
        "--quiet",
        "--locked",
        "--release",
        "--package",
        "repart",
        "--example",
        "bench",
    ]));
    if let Err(error) = &planning {
        println!("{error}");
    }
    let peer = Peer::find()?;
    let job = Job::new(&workspace.join("target/bench/repart"))?;
    let faster = side_by_side(&job, &dist.join("repart"), &peer)?;
    Ok(planning.is_ok() && faster)
}

fn side_by_side(job: &Job, ours: &Path, peer: &Peer) -> Result<bool, String> {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    // The first run of each warms the caches and does not count.
    for turn in 0..=RUNS {
        for (first, take_own) in [(turn % 2 == 0, true), (turn % 2 == 0, false)] {
            let is_own = first == take_own;
            let command = if is_own {
                program(&ours.display().to_string())
            } else {
                peer.command()
            };
            let took = match job.run(command) {
                Err(error) if is_own && error.contains("not supported") => {
                    println!("side by side: not supported yet by our binary:\n{error}");
                    return Ok(false);
                }
                result => result?,
            };
            if turn > 0 {
                if is_own { &mut own } else { &mut other }.push(took);
            }
        }
    }
    let line = |name: &str, times: &mut Vec<Duration>| {
        times.sort();
        let (minimum, median) = (times[0], times[times.len() / 2]);
        println!("{name:<24} minimum {minimum:>8.1?}  median {median:>8.1?}  of {RUNS} runs");
        median
    };
    println!("2 GiB image, ext4 with {} files, swap, offline:", FILES.0);
    let own = line("repart", &mut own);
    let other = line(&peer.version, &mut other);
    let ratio = own.as_secs_f64() / other.as_secs_f64();
    println!("ratio of the medians {ratio:.2}, at most {TOLERANCE} is as fast");
    Ok(ratio <= TOLERANCE)
}

/// The definitions, the files to copy and the image.
struct Job {
    dir: PathBuf,
}

impl Job {
    fn new(dir: &Path) -> Result<Self, String> {
        if dir.exists() {
            fs::remove_dir_all(dir).map_err(at("remove", dir))?;
        }
        let (definitions, tree) = (dir.join("repart.d"), dir.join("source/tree"));
        for sub in [&definitions, &tree] {
            fs::create_dir_all(sub).map_err(at("create", sub))?;
        }
        let texts = [
            (
                "10-swap.conf",
                "[Partition]\nType=swap\nSizeMinBytes=256M\nSizeMaxBytes=256M\n",
            ),
            (
                "20-root.conf",
                "[Partition]\nType=root\nFormat=ext4\nCopyFiles=/tree:/\n",
            ),
        ];
        for (name, text) in texts {
            let file = definitions.join(name);
            fs::write(&file, text).map_err(at("write", &file))?;
        }
        let (count, size) = FILES;
        let mut state = 1u32;
        for number in 0..count {
            let sub = tree.join(format!("d{}", number % 20));
            fs::create_dir_all(&sub).map_err(at("create", &sub))?;
            let file = sub.join(format!("f{number}"));
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .take(size)
            .collect();
            fs::write(&file, bytes).map_err(at("write", &file))?;
        }
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Makes the image anew and says how long that took.
    fn run(&self, mut command: Command) -> Result<Duration, String> {
        let image = self.dir.join("image.raw");
        if image.exists() {
            fs::remove_file(&image).map_err(at("remove", &image))?;
        }
        let file = fs::File::create(&image).map_err(at("create", &image))?;
        file.set_len(2 << 30).map_err(at("enlarge", &image))?;
        command
            .args([
                "--offline=yes",
                "--empty=require",
                "--dry-run=no",
                "--pretty=no",
            ])
            .arg("--seed=750b6cd5-c4ae-4012-a15e-7be3c29e6a47")
            .arg(format!(
                "--definitions={}",
                self.dir.join("repart.d").display()
            ))
            .arg(format!(
                "--copy-source={}",
                self.dir.join("source").display()
            ))
            .arg(&image);
        let started = Instant::now();
        quiet(&mut command)?;
        let took = started.elapsed();
        check(&image)?;
        Ok(took)
    }
}

/// Two partitions, a clean file system with the last of the files in it, a swap signature.
fn check(image: &Path) -> Result<(), String> {
    let table = quiet(program("sfdisk").arg("--json").arg(image))?;
    let table: serde_json::Value =
        serde_json::from_str(&table).map_err(|error| format!("sfdisk: {error}"))?;
    let start = |at: usize| {
        let start = table["partitiontable"]["partitions"][at]["start"].as_u64();
        start.ok_or_else(|| format!("{}: partition {} is missing", image.display(), at + 1))
    };
    let (swap, root) = (start(0)?, start(1)?);
    let probe = |offset: u64| {
        let offset = (offset * 512).to_string();
        quiet(
            program("blkid")
                .args(["-p", "-o", "value", "-s", "TYPE", "-O", &offset])
                .arg(image),
        )
    };
    if probe(swap)?.trim() != "swap" {
        return Err(format!("{}: no swap", image.display()));
    }
    let (last, file) = (
        FILES.0 - 1,
        format!("{}?offset={}", image.display(), root * 512),
    );
    let name = format!("stat /d{}/f{last}", last % 20);
    let stat = quiet(program("debugfs").args(["-R", &name, &file]))?;
    if stat.contains(&format!("Size: {}", FILES.1)) {
        Ok(())
    } else {
        Err(format!(
            "{}: the last file was not copied: {stat}",
            image.display()
        ))
    }
}

/// systemd-repart of a Debian suite with its own loader and libraries.
struct Peer {
    root: PathBuf,
    version: String,
}

impl Peer {
    fn find() -> Result<Self, String> {
        let mut why = String::new();
        for suite in SUITES {
            match Self::of(suite) {
                Ok(peer) => return Ok(peer),
                Err(error) => why = format!("{why}\n{suite}: {error}"),
            }
        }
        Err(format!("no systemd-repart to compare with:{why}"))
    }

    fn of(suite: &str) -> Result<Self, String> {
        let root = image::cache()?.root().join(format!("peer-repart-{suite}"));
        if !root.join("usr/bin/systemd-repart").exists() {
            step(&format!("systemd-repart of {suite}"), || {
                unpack(suite, &root)
            })?;
        }
        let mut peer = Self {
            root,
            version: String::new(),
        };
        let said = quiet(peer.command().arg("--version"))?;
        let version = said
            .split_whitespace()
            .nth(1)
            .unwrap_or("of unknown version");
        peer.version = format!("systemd-repart {version}");
        Ok(peer)
    }

    fn command(&self) -> Command {
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        let paths = format!("{0}:{0}/systemd", libraries.display());
        let loader = libraries.join("ld-linux-x86-64.so.2");
        let mut command = program(&loader.display().to_string());
        command
            .args(["--library-path", &paths])
            .arg(self.root.join("usr/bin/systemd-repart"));
        command
    }
}

/// Fetches the package with all it depends on and unpacks them, installing nothing.
fn unpack(suite: &str, root: &Path) -> Result<(), String> {
    let apt = Apt::new(&root.with_extension("apt"), "deb", suite)?;
    quiet(apt.command().arg("update"))?;
    quiet(apt.command().args([
        "install",
        "--yes",
        "--download-only",
        "--no-install-recommends",
        "systemd-repart",
        "libfdisk1",
        "libcryptsetup12",
        "libblkid1",
        "libmount1",
    ]))?;
    let part = root.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).map_err(at("remove", &part))?;
    }
    fs::create_dir_all(&part).map_err(at("create", &part))?;
    let debs = apt.dir.join("cache/archives");
    for entry in fs::read_dir(&debs).map_err(at("list", &debs))? {
        let deb = entry.map_err(at("list", &debs))?.path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            quiet(program("dpkg-deb").arg("--extract").arg(&deb).arg(&part))?;
        }
    }
    fs::rename(&part, root).map_err(at("create", root))?;
    fs::remove_dir_all(&apt.dir).map_err(at("remove", &apt.dir))
}
