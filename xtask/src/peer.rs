//! `cargo xtask peer-suite`: systemd's own test of systemd-repart, from Debian's source packages, against our binary.
//! Invariant: each case of the suite is in the table (`repart/tests/peer/cases-*.txt`) and ends as the table says; a gap
//! that starts to pass is a failure too, so that the table cannot grow old. Needs root and loop devices.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use fixtures::Cache;

use crate::debian::Apt;
use crate::options::Options;
use crate::run::{at, program, quiet, step};
use crate::{dist, image, setup};

/// Debian suites, and the version of systemd whose table belongs to each.
const SUITES: [(&str, &str); 2] = [("trixie", "257"), ("forky", "262")];
/// Without loop devices, and with.
const MODES: [&str; 2] = ["container", "host"];
/// How long fetched sources are used before the mirror is asked again.
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);
/// What the cases call, beyond what the other tasks need.
pub const PACKAGES: &[&str] = &[
    "btrfs-progs",
    "dosfstools",
    "e2fsprogs",
    "erofs-utils",
    "fdisk",
    "jq",
    "mount",
    "mtools",
    "openssl",
    "squashfs-tools",
    "util-linux",
    "xfsprogs",
];

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Pass,
    Gap,
    /// It ended well without one call of our binary.
    Skip,
}

impl Outcome {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "pass" => Some(Self::Pass),
            "gap" => Some(Self::Gap),
            "skip" => Some(Self::Skip),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Gap => "gap",
            Self::Skip => "skip",
        })
    }
}

/// Case and mode.
type Name = (String, String);
/// What may be, and why it is not `pass`.
type Table = BTreeMap<Name, (Vec<Outcome>, String)>;

/// The directory that `INITRD_AGENT_DIST` names, or else what was just built.
///
/// # Errors
/// What could not be built.
pub fn programs(workspace: &Path, options: &Options) -> Result<PathBuf, String> {
    setup::ensure()?;
    match std::env::var_os("INITRD_AGENT_DIST") {
        Some(dist) => Ok(PathBuf::from(dist)),
        None => dist::build(workspace, options.quick),
    }
}

/// `cargo xtask peer-suite`.
///
/// # Errors
/// As [`suites`], and what could not be built.
pub fn task(workspace: &Path, options: &Options) -> Result<bool, String> {
    suites(workspace, &programs(workspace, options)?)
}

/// Runs both suites in both modes; false if anything is not as its table says.
///
/// # Errors
/// No root, no loop devices, or the sources cannot be fetched.
pub fn suites(workspace: &Path, dist: &Path) -> Result<bool, String> {
    if !setup::is_root()? || !Path::new("/dev/loop-control").exists() {
        return Err("the peer's suite needs root and loop devices (/dev/loop-control)".to_owned());
    }
    let cache = image::cache()?;
    let mut good = true;
    for (suite, version) in SUITES {
        let source = sources(&cache, suite)?;
        println!("\nTEST-58-REPART of systemd {} ({suite}):", source.version);
        if !source.version.starts_with(version) {
            println!("  (the archive moved on: the table is that of {version})");
        }
        let file = workspace.join(format!("repart/tests/peer/cases-{version}.txt"));
        let text = fs::read_to_string(&file).map_err(at("read", &file))?;
        let table = parse(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        let outcomes = run(workspace, dist, &source.units, version)?;
        print!("{}", shown(&outcomes, &table));
        for problem in compare(&table, &outcomes) {
            println!("  WRONG: {problem}");
            good = false;
        }
    }
    Ok(good)
}

/// The suite's scripts and the version they are of.
struct Source {
    units: PathBuf,
    version: String,
}

/// Fetches and unpacks `test/units` of Debian's systemd, unless that was done lately.
fn sources(cache: &Cache, suite: &str) -> Result<Source, String> {
    let dir = cache.root().join(format!("peer-{suite}"));
    let units = dir.join("test/units");
    let version = dir.join("version");
    let is_fresh = fs::metadata(&version)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|when| {
            SystemTime::now()
                .duration_since(when)
                .is_ok_and(|age| age < FRESH)
        });
    if !is_fresh {
        step(&format!("systemd's sources of {suite}"), || {
            fetch(suite, &dir)
        })?;
    }
    let version = fs::read_to_string(&version).map_err(at("read", &version))?;
    Ok(Source { units, version })
}

fn fetch(suite: &str, dir: &Path) -> Result<(), String> {
    let apt = Apt::new(&dir.with_extension("apt"), "deb-src", suite)?;
    quiet(apt.command().arg("update"))?;
    quiet(
        apt.command()
            .args(["source", "--download-only", "--tar-only", "systemd"]),
    )?;
    let tarball = fs::read_dir(&apt.dir)
        .map_err(at("list", &apt.dir))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("systemd_") && name.contains(".orig.tar"))
        .ok_or_else(|| format!("the source package systemd of {suite} has no tarball"))?;
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(at("remove", dir))?;
    }
    fs::create_dir_all(dir).map_err(at("create", dir))?;
    quiet(
        program("tar")
            .args([
                "--strip-components=1",
                "--no-same-owner",
                "--wildcards",
                "-xf",
            ])
            .arg(apt.dir.join(&tarball))
            .arg("*/test/units/*")
            .current_dir(dir),
    )?;
    let number = tarball.trim_start_matches("systemd_");
    let number = number.split(".orig").next().unwrap_or_default();
    let version = dir.join("version");
    fs::write(&version, number).map_err(at("write", &version))?;
    fs::remove_dir_all(&apt.dir).map_err(at("remove", &apt.dir))
}

/// Names of the cases in the suite's script; until 257 the sector sizes are called from its last lines.
fn cases(script: &str) -> Vec<String> {
    let mut all: Vec<String> = script
        .lines()
        .filter_map(|line| line.strip_prefix("testcase_")?.strip_suffix("() {"))
        .map(str::to_owned)
        .collect();
    if script.contains("\ntest_sector 512\n") {
        all.push("sector".to_owned());
    }
    all.sort();
    all
}

/// Every case in every mode; what each printed stays in `target/peer`.
fn run(
    workspace: &Path,
    dist: &Path,
    units: &Path,
    version: &str,
) -> Result<BTreeMap<Name, Outcome>, String> {
    let main = units.join("TEST-58-REPART.sh");
    let script = fs::read_to_string(&main).map_err(at("read", &main))?;
    let logs = workspace.join(format!("target/peer/{version}"));
    fs::create_dir_all(&logs).map_err(at("create", &logs))?;
    let mut outcomes = BTreeMap::new();
    for mode in MODES {
        let started = Instant::now();
        for case in cases(&script) {
            let log = logs.join(format!("{case}-{mode}.log"));
            let outcome = one(workspace, dist, units, (&case, mode), &log)?;
            outcomes.insert((case, mode.to_owned()), outcome);
        }
        eprintln!("  {mode}: {:.0} s", started.elapsed().as_secs_f32());
    }
    Ok(outcomes)
}

/// One case by itself, in a mount namespace.
fn one(
    workspace: &Path,
    dist: &Path,
    units: &Path,
    (case, mode): (&str, &str),
    log: &Path,
) -> Result<Outcome, String> {
    let scratch = workspace.join("target/peer/scratch");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).map_err(at("remove", &scratch))?;
    }
    fs::create_dir_all(&scratch).map_err(at("create", &scratch))?;
    let output = fs::File::create(log).map_err(at("create", log))?;
    let errors = output.try_clone().map_err(at("write", log))?;
    let status = program("unshare")
        .arg("--mount")
        .arg(workspace.join("repart/tests/peer/case.sh"))
        .arg(units)
        .args([case, mode])
        .arg(dist.join("repart"))
        .arg(&scratch)
        .stdin(std::process::Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .map_err(|error| format!("cannot run unshare: {error}"))?;
    match status.code() {
        Some(0) => Ok(Outcome::Pass),
        Some(77) => Ok(Outcome::Skip),
        Some(1) => Ok(Outcome::Gap),
        _ => Err(format!(
            "case {case} ({mode}) could not be run ({status}): {}",
            log.display()
        )),
    }
}

/// Lines of `case mode outcome reason`; `|` between outcomes that depend on the machine; `#` begins a comment.
fn parse(text: &str) -> Result<Table, String> {
    let mut table = Table::new();
    let lines = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    for (line, number) in lines {
        let mut words = line.split_whitespace();
        let (Some(case), Some(mode), Some(may)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("line {number} needs a case, a mode and an outcome"));
        };
        if !MODES.contains(&mode) {
            return Err(format!("line {number}: no mode `{mode}`"));
        }
        let may: Option<Vec<Outcome>> = may.split('|').map(Outcome::parse).collect();
        let may = may.ok_or_else(|| format!("line {number}: outcomes are pass, gap and skip"))?;
        let reason = words.collect::<Vec<_>>().join(" ");
        if reason.is_empty() && may != [Outcome::Pass] {
            return Err(format!("line {number}: what does not pass needs a reason"));
        }
        let name = (case.to_owned(), mode.to_owned());
        if table.insert(name, (may, reason)).is_some() {
            return Err(format!(
                "line {number}: {case} in mode {mode} is there twice"
            ));
        }
    }
    Ok(table)
}

/// Everything that is not as the table says, one line each.
fn compare(table: &Table, outcomes: &BTreeMap<Name, Outcome>) -> Vec<String> {
    let mut problems = Vec::new();
    for ((case, mode), outcome) in outcomes {
        let Some((may, reason)) = table.get(&(case.clone(), mode.clone())) else {
            problems.push(format!(
                "{case} ({mode}) is not in the table; it ended as {outcome}"
            ));
            continue;
        };
        if may.contains(outcome) {
            continue;
        }
        problems.push(match outcome {
            Outcome::Pass => format!("{case} ({mode}) passes now; the table says: {reason}"),
            Outcome::Skip => format!("{case} ({mode}) was skipped"),
            Outcome::Gap => format!("{case} ({mode}) fails; target/peer has what it printed"),
        });
    }
    for (case, mode) in table.keys().filter(|name| !outcomes.contains_key(*name)) {
        problems.push(format!(
            "{case} ({mode}) is in the table but not in the suite"
        ));
    }
    problems
}

/// One line a case and mode, then the sums.
fn shown(outcomes: &BTreeMap<Name, Outcome>, table: &Table) -> String {
    let mut text = String::new();
    for (name, outcome) in outcomes {
        let (case, mode) = name;
        let reason = table
            .get(name)
            .filter(|_| *outcome != Outcome::Pass)
            .map_or("", |(_, reason)| reason);
        text += format!("  {case:<44} {mode:<10} {outcome:<5} {reason}").trim_end();
        text.push('\n');
    }
    for mode in MODES {
        let count = |wanted| {
            let these = outcomes.iter().filter(|((_, own), _)| own == mode);
            these.filter(|(_, outcome)| **outcome == wanted).count()
        };
        text += &format!(
            "  {mode}: {} pass, {} gap, {} skip\n",
            count(Outcome::Pass),
            count(Outcome::Gap),
            count(Outcome::Skip)
        );
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn outcome(case: &str, outcome: Outcome) -> (Name, Outcome) {
        ((case.to_owned(), "host".to_owned()), outcome)
    }

    #[test]
    fn what_is_not_as_the_table_says_is_named() {
        let text = "# x\na host pass\nb host gap no B here\nc host skip|gap old C\ne host pass\n";
        let table = parse(text).unwrap();
        let good = [
            outcome("a", Outcome::Pass),
            outcome("b", Outcome::Gap),
            outcome("c", Outcome::Gap),
            outcome("e", Outcome::Pass),
        ];
        assert_eq!(compare(&table, &good.into()), Vec::<String>::new());
        let bad = [
            outcome("a", Outcome::Gap),
            outcome("b", Outcome::Pass),
            outcome("c", Outcome::Pass),
            outcome("d", Outcome::Skip),
        ];
        let problems = compare(&table, &bad.into()).join("\n");
        for part in [
            "a (host) fails",
            "no B here",
            "old C",
            "d (host) is not in",
            "e (host) is in the table but",
        ] {
            assert!(problems.contains(part), "{part}: {problems}");
        }
    }

    #[test]
    fn a_table_without_reasons_is_refused() {
        for text in [
            "a host",
            "a host gap",
            "a moon pass",
            "a host well",
            "a host pass\na host pass",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cases_are_found() {
        let script =
            "testcase_b() {\n}\ntestcase_a() {\n}\ntest_sector() {\n}\nrun\ntest_sector 512\n";
        assert_eq!(cases(script), ["a", "b", "sector"]);
    }
}
