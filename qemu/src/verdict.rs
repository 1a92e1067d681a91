//! What scenarios expect of a machine: a hand-over, a refusal with its card, a report of the system that took over.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bench::Bench;
use crate::contract::{self, Handover};
use crate::error::{Error, Result};
use crate::machine::{Off, Running};

/// Until the agent hands over or gives up: firmware, stub and kernel under emulation on a busy host.
pub const BOOT: Duration = Duration::from_secs(300);
/// Until a real systemd is up under emulation.
pub const SYSTEM: Duration = Duration::from_secs(500);
/// Until a machine that said its last word is off.
pub const POWER_OFF: Duration = Duration::from_secs(120);

/// An error unless `holds`.
pub fn claim(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::Unexpected(otherwise()))
    }
}

/// Waits for the hand-over; a failure card is an error that shows it.
pub fn handover(running: &mut Running) -> Result<Handover> {
    let seen = running.wait_for(&[contract::HANDOVER, contract::FAILED], BOOT)?;
    if seen.which == 1 {
        return Err(Error::Unexpected(format!(
            "the boot was given up:\n{}",
            card(&running.lines())
        )));
    }
    contract::handover(&seen.line)
        .ok_or_else(|| Error::Unexpected(format!("broken marker: {}", seen.line)))
}

/// Waits for the scenario's failure: the card, the code, then the end that the policy says, without a panic.
pub fn refused(bench: &Bench<'_>, mut running: Running) -> Result<Off> {
    let seen = running.wait_for(&[contract::FAILED, contract::HANDOVER], BOOT)?;
    let failure = contract::failure(&seen.line)
        .ok_or_else(|| Error::Unexpected(format!("a failure was expected, but: {}", seen.line)))?;
    let off = running.wait_off(POWER_OFF)?;
    let card = card(&off.lines);
    claim(failure.code == bench.code, || {
        format!("code {} instead of {}:\n{card}", failure.code, bench.code)
    })?;
    claim(failure.action == "poweroff", || {
        format!("action {} instead of the policy's", failure.action)
    })?;
    for part in ["what failed:", "what happens now:", "what you can do:"] {
        claim(card.contains(part), || {
            format!("the card lacks \"{part}\":\n{card}")
        })?;
    }
    claim(!off.says("Kernel panic"), || {
        format!(
            "the kernel panicked after the card; log {}",
            off.log.display()
        )
    })?;
    Ok(off)
}

/// The last lines up to the failure marker: the card is among them.
#[must_use]
pub fn card(lines: &[String]) -> String {
    let end = lines
        .iter()
        .position(|line| line.contains(contract::FAILED))
        .map_or(lines.len(), |at| at + 1);
    lines
        .iter()
        .take(end)
        .skip(end.saturating_sub(16))
        .map(|line| format!("  | {line}\n"))
        .collect()
}

/// The tiny system's own account.
#[derive(Debug)]
pub struct Tiny {
    facts: BTreeMap<String, String>,
    /// Time of our own work, from the marker.
    pub handover: Handover,
    /// What is left of the boot.
    pub off: Off,
}

impl Tiny {
    /// Boots through to the tiny system, waits until it is off and reads what it said.
    pub fn boot(mut running: Running) -> Result<Self> {
        let handover = handover(&mut running)?;
        let line = running.wait_for(&["TINY-INIT boot="], BOOT)?.line;
        running.wait_for(&["TINY-INIT-END"], BOOT)?;
        let off = running.wait_off(POWER_OFF)?;
        let words = line
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        let facts = words
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Ok(Self {
            facts,
            handover,
            off,
        })
    }

    /// Holds if the system found itself as it has to be, in its boot with this number.
    pub fn sound(&self, boot: u32) -> Result<()> {
        let boot = boot.to_string();
        let wanted = [
            ("boot", boot.as_str()),
            ("home", &boot),
            ("usr-mode", "ro"),
            ("usr-read", "ok"),
            ("swap", "1"),
        ];
        for (key, value) in wanted.into_iter().chain([("report", "yes")]) {
            self.is(key, value)?;
        }
        self.clean()
    }

    /// Holds if the fact has this value.
    pub fn is(&self, key: &str, value: &str) -> Result<()> {
        let found = self.facts.get(key).map(String::as_str);
        claim(found == Some(value), || {
            format!("{key}={} instead of {value}", found.unwrap_or("(missing)"))
        })
    }

    /// Holds if nothing of ours is left in what the system inherited.
    fn clean(&self) -> Result<()> {
        let processes = self.section("processes");
        claim(processes.len() == 1, || {
            format!("processes besides PID 1: {processes:?}")
        })?;
        let strays: Vec<_> = self
            .section("fds")
            .into_iter()
            .filter(|line| !matches!(line.split(' ').next(), Some("0" | "1" | "2")))
            .collect();
        // The listing itself holds one descriptor open.
        claim(strays.len() <= 1, || {
            format!("inherited descriptors: {strays:?}")
        })
    }

    /// The lines of one section of the account.
    #[must_use]
    pub fn section(&self, name: &str) -> Vec<String> {
        section(&self.off.lines, name)
    }
}

/// The account of the real Debian.
#[derive(Debug)]
pub struct Debian {
    /// What `systemctl is-system-running` says.
    pub state: String,
    /// Time of our own work, from the marker.
    pub handover: Handover,
    /// Console lines up to the end of the account.
    pub lines: Vec<String>,
}

impl Debian {
    /// Boots through to the account of the check service; the machine stays on.
    pub fn boot(running: &mut Running) -> Result<Self> {
        let handover = handover(running)?;
        running.wait_for(&["CHECK-BEGIN"], SYSTEM)?;
        let state = running.wait_for(&["state="], SYSTEM)?.line;
        running.wait_for(&["CHECK-END"], SYSTEM)?;
        let state = state.rsplit('=').next().unwrap_or_default().to_owned();
        Ok(Self {
            state,
            handover,
            lines: running.lines(),
        })
    }

    /// Holds if systemd is content and everything is mounted as it should be.
    pub fn sound(&self) -> Result<()> {
        let failed = self.section("failed");
        claim(self.state == "running", || {
            format!("the system is {}, failed units: {failed:?}", self.state)
        })?;
        claim(failed.is_empty(), || format!("failed units: {failed:?}"))?;
        claim(
            self.section("jobs")
                .iter()
                .all(|line| line.is_empty() || line.starts_with("No jobs")),
            || "jobs are still waiting".to_owned(),
        )?;
        self.lists("mounts", &["/ ", "/dev/mapper/root", "rw,"])?;
        self.lists("mounts", &["/home ", "/dev/mapper/home", "rw,"])?;
        self.lists("mounts", &["/usr ", "/dev/mapper/usr", "ro,"])?;
        self.lists("swap", &["/dev/mapper/swap"])?;
        self.lists("dm-table", &["usr: ", " verity "])?;
        for name in ["usr", "root", "home", "swap"] {
            self.lists("links", &[&format!("dm-name-{name} -> ../../dm-")])?;
            self.lists(
                "device-units",
                &[&format!("dev-mapper-{name}.device=active")],
            )?;
        }
        self.lists("scheduler", &["policy", "SCHED_OTHER"])?;
        self.lists("luks", &["systemd-tpm2"])?;
        self.lists("luks", &["tpm2-pubkey-pcrs: 11"])
    }

    /// Holds if a line of the section has all these parts.
    fn lists(&self, name: &str, parts: &[&str]) -> Result<()> {
        let lines = self.section(name);
        let found = lines
            .iter()
            .any(|line| parts.iter().all(|part| line.contains(part)));
        claim(found, || {
            format!("no line with {parts:?} under {name}: {lines:#?}")
        })
    }

    /// The lines of one section of the account.
    #[must_use]
    pub fn section(&self, name: &str) -> Vec<String> {
        section(&self.lines, name)
    }
}

/// The lines between `== NAME` and the next heading.
fn section(lines: &[String], name: &str) -> Vec<String> {
    let heading = format!("== {name}");
    let inside = lines.iter().skip_while(|line| **line != heading).skip(1);
    inside
        .take_while(|line| !line.starts_with("== ") && !line.ends_with("-END"))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_section_ends_at_the_next_heading_or_at_the_end() {
        let account = lines("noise\n== failed\n== jobs\none\ntwo\nCHECK-END\nlater");
        assert!(section(&account, "failed").is_empty());
        assert_eq!(section(&account, "jobs"), ["one", "two"]);
        assert!(section(&account, "missing").is_empty());
    }

    #[test]
    fn the_card_ends_with_the_marker() {
        let said = lines(
            "what failed: x\ninitrd-agent: failed stage=usr code=c action=halt\nreboot: System halted",
        );
        let card = card(&said);
        assert!(
            card.contains("what failed: x") && card.contains("code=c") && !card.contains("halted"),
            "{card}"
        );
    }
}
