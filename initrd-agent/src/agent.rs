//! The running agent: console, policy, report, and the clock around each stage.
//!
//! Owns: the one line a stage prints, and that every stage and step ends up in the report with its times.

use crate::cmdline::Cmdline;
use crate::config::Config;
use crate::console::Console;
use crate::failure::{Failure, Stage};
use crate::report::{Report, StageTimes, Step, Warning, now_us};
use std::path::PathBuf;

/// How a stage ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It changed or built something.
    Done,
    /// There was nothing to do.
    Unchanged,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unchanged => "unchanged",
        }
    }
}

/// What all stages share.
#[derive(Debug)]
pub struct Agent {
    /// Where `/proc`, `/sys`, `/dev`, `/run` are found; `/` in PID 1.
    pub root: PathBuf,
    /// Consoles and kernel log.
    pub console: Console,
    /// Policy of `agent.toml`.
    pub config: Config,
    /// Kernel command line.
    pub cmdline: Cmdline,
    /// What will be `/run/initrd-agent/report.json`.
    pub report: Report,
    steps: Vec<Step>,
    started_us: u64,
}

impl Agent {
    /// An agent that has seen nothing yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            console: Console::default(),
            config: Config::default(),
            cmdline: Cmdline::default(),
            report: Report::new(),
            steps: Vec::new(),
            started_us: now_us(),
        }
    }

    /// Runs one stage, prints its line and files its times.
    ///
    /// # Errors
    /// The stage's own failure; its line says `outcome=failed`.
    pub fn stage<T>(
        &mut self,
        stage: Stage,
        work: impl FnOnce(&mut Self) -> Result<(T, Outcome), Failure>,
    ) -> Result<T, Failure> {
        let start_us = now_us();
        let result = work(self);
        let outcome = result
            .as_ref()
            .map_or("failed", |(_, outcome)| outcome.as_str());
        self.file_stage(stage, outcome, start_us);
        result.map(|(value, _)| value)
    }

    fn file_stage(&mut self, stage: Stage, outcome: &'static str, start_us: u64) {
        let end_us = now_us();
        let ms = (end_us - start_us) / 1000;
        self.console.line(&format!(
            "initrd-agent: stage={} outcome={outcome} ms={ms}",
            stage.as_str()
        ));
        let steps = std::mem::take(&mut self.steps);
        self.report.stages.push(StageTimes {
            name: stage,
            outcome,
            start_us,
            end_us,
            steps,
        });
    }

    /// Runs one step of the current stage and files its times.
    pub fn step<T>(&mut self, name: impl Into<String>, work: impl FnOnce(&mut Self) -> T) -> T {
        let start_us = now_us();
        let value = work(self);
        self.steps.push(Step {
            name: name.into(),
            start_us,
            end_us: now_us(),
        });
        value
    }

    /// Files and logs something odd that does not stop the boot.
    pub fn warn(&mut self, code: &'static str, text: impl Into<String>) {
        let text = text.into();
        self.console
            .line(&format!("initrd-agent: warning code={code} {text}"));
        self.report.warnings.push(Warning { code, text });
    }

    /// Milliseconds since this program started.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        (now_us() - self.started_us) / 1000
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::failure::Remedy;

    #[test]
    fn a_stage_files_its_steps_and_a_failure_is_filed_too() {
        let mut agent = Agent::new(PathBuf::from("/nonexistent"));
        let value = agent
            .stage(Stage::Usr, |agent| {
                Ok((agent.step("open", |_| 7), Outcome::Done))
            })
            .unwrap();
        assert_eq!(value, 7);
        let failed: Result<(), _> = agent.stage(Stage::Root, |_| {
            Err(Failure::plain(Stage::Root, "x", "y", Remedy::TryAgain))
        });
        assert!(failed.is_err());
        let outcomes: Vec<_> = agent
            .report
            .stages
            .iter()
            .map(|s| (s.outcome, s.steps.len()))
            .collect();
        assert_eq!(outcomes, [("done", 1), ("failed", 0)]);
    }
}
