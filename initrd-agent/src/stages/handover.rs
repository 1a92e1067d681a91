//! `measure` and `handover`: the last words to the TPM, the report, and the real init.

use crate::agent::{Agent, Outcome};
use crate::failure::{Failure, Remedy, Stage};
use crate::stages::root::Assembled;
use std::convert::Infallible;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

/// A root that was measured: nothing of the initrd's secrets can be had any more.
#[derive(Debug)]
pub struct Measured {
    assembled: Assembled,
}

impl Assembled {
    /// Extends `leave-initrd` into PCR 11, which ends what the initrd alone may unseal.
    ///
    /// # Errors
    /// A measured machine whose TPM refuses the measurement does not go on: its keys would stay within reach.
    pub fn measure(mut self, agent: &mut Agent) -> Result<Measured, Failure> {
        agent.stage(Stage::Measure, |agent| {
            let outcome = match &mut self.trust {
                Some(trust) if trust.measured => {
                    agent
                        .step("leave-initrd", |_| trust.phase("leave-initrd"))
                        .map_err(|source| {
                            Failure::new(
                                Stage::Measure,
                                "measurement-failed",
                                "PCR 11 could not be extended with leave-initrd",
                                Remedy::RestoreTpm,
                                source,
                            )
                        })?;
                    Outcome::Done
                }
                _ => Outcome::Unchanged,
            };
            // The TPM's device must be closed before the real init wants it.
            self.trust = None;
            Ok((Measured { assembled: self }, outcome))
        })
    }
}

impl Measured {
    /// Becomes the real init.
    ///
    /// # Errors
    /// Nothing was lost: the hand-over itself refused.
    pub fn hand_over(self, agent: &mut Agent) -> Result<Infallible, Failure> {
        let Assembled {
            root,
            init,
            inherited,
            ..
        } = self.assembled;
        // The stage's own line and the report must be out before there is nobody left to write them.
        agent.stage(Stage::Handover, |_| Ok(((), Outcome::Done)))?;
        write_report(agent);
        let path = init.path().display();
        agent.console.line(&format!(
            "initrd-agent: handover init={path} total_ms={}",
            agent.elapsed_ms()
        ));
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            let what = path.to_string();
            Failure::new(
                Stage::Handover,
                "handover-failed",
                what,
                Remedy::TryAgain,
                source,
            )
        };
        // All that the real init starts would inherit the urgency.
        sys::process::run_first(false).map_err(|error| failed(Box::new(error)))?;
        switchroot::handover(root, &init, &[], &inherited)
            .map_err(|source| failed(Box::new(source)))
    }
}

/// Leaves `/run/initrd-agent/report.json`. Without it the machine still boots.
pub fn write_report(agent: &mut Agent) {
    agent.report.note_memory(&agent.root);
    let directory = agent.root.join("run/initrd-agent");
    let written = agent
        .report
        .to_json()
        .map_err(std::io::Error::other)
        .and_then(|text| {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&directory)?;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o644)
                .open(directory.join("report.json"))?;
            std::io::Write::write_all(&mut file, text.as_bytes())
        });
    if let Err(error) = written {
        agent.warn(
            "report-unwritten",
            format!("/run/initrd-agent/report.json: {error}"),
        );
    }
}
