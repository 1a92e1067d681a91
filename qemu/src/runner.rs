//! Runs scenarios, a few at a time, and tells how each ended as soon as it has.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::bench::{Bench, Ctx};
use crate::error::{Result, chain};
use crate::scenarios;

/// Something that goes wrong with a machine (or nothing, for once), and what has to come of it.
pub struct Scenario {
    /// Its name: of the file, of the log directory, for the filter.
    pub name: &'static str,
    /// What goes wrong, in a few words.
    pub story: &'static str,
    /// The code of the failure card; empty where the boot has to succeed.
    pub code: &'static str,
    /// Plays it.
    pub run: fn(&Bench<'_>) -> Result<()>,
}

/// How a scenario ended.
#[derive(Debug)]
pub struct Outcome {
    /// The scenario.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// Its directory, with all logs.
    pub logs: PathBuf,
}

/// The scenarios whose name contains `filter`.
pub fn selected(filter: &str) -> Vec<&'static Scenario> {
    scenarios::ALL
        .iter()
        .filter(|scenario| scenario.name.contains(filter))
        .collect()
}

/// Runs all scenarios whose name contains `filter`; writes a line about each to `progress`, then the sum.
pub fn run(filter: &str, ctx: &Ctx, progress: &mut dyn Write) -> Vec<Outcome> {
    let chosen = selected(filter);
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    let mut outcomes = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..ctx.at_once.max(1) {
            let (send, next, chosen) = (send.clone(), &next, &chosen);
            scope.spawn(move || {
                while let Some(scenario) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if send.send(play(scenario, ctx)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for outcome in receive {
            // Where progress cannot be written to, the outcomes still are returned.
            drop(tell(&outcome, progress));
            outcomes.push(outcome);
        }
    });
    let failed = outcomes
        .iter()
        .filter(|outcome| outcome.failure.is_some())
        .count();
    drop(writeln!(
        progress,
        "{} passed, {failed} failed",
        outcomes.len() - failed
    ));
    outcomes
}

fn play(scenario: &'static Scenario, ctx: &Ctx) -> Outcome {
    let started = Instant::now();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut bench = ctx.bench(scenario.name)?;
        bench.code = scenario.code;
        (scenario.run)(&bench)?;
        bench.tidy()
    }));
    let failure = match played {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(chain(&error)),
        Err(_) => Some("the scenario panicked".to_owned()),
    };
    Outcome {
        name: scenario.name,
        took: started.elapsed(),
        failure,
        logs: ctx.out.join(scenario.name),
    }
}

fn tell(outcome: &Outcome, progress: &mut dyn Write) -> std::io::Result<()> {
    let Outcome {
        name,
        took,
        failure,
        logs,
    } = outcome;
    let verdict = if failure.is_none() { "ok" } else { "FAILED" };
    writeln!(
        progress,
        "{verdict:>6} {name:<24} {:>6.1} s",
        took.as_secs_f64()
    )?;
    match failure {
        None => progress.flush(),
        Some(why) => writeln!(progress, "       {why}\n       logs: {}", logs.display()),
    }
}
