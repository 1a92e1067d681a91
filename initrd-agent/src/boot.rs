//! The boot, read aloud: each stage consumes the one before it, so none can be skipped or repeated.
//!
//! Owns: the order of the stages and what happens when one fails.

use crate::agent::Agent;
use crate::config::OnFailure;
use crate::console::Console;
use crate::failure::{Failure, Remedy, Stage};
use crate::stages::early::Early;
use std::convert::Infallible;
use std::path::Path;

/// Boots the machine up to the real init.
///
/// # Errors
/// The first stage that cannot go on.
pub fn boot(agent: &mut Agent) -> Result<Infallible, Failure> {
    let early = Early::begin(agent)?;
    let disk = early.find_boot_disk(agent)?;
    let usr = disk.verify_usr(agent)?;
    let decided = usr.decide_reset(agent)?;
    let partitioned = decided.repartition(agent)?;
    let unlocked = partitioned.unlock(agent)?;
    let root = unlocked.assemble_root(agent)?;
    let measured = root.measure(agent)?;
    measured.hand_over(agent)
}

/// Shows the card of a failure and does what the policy says. Never returns.
pub fn end(agent: &mut Agent, failure: &Failure) -> ! {
    // Drivers may have brought a console since the first look.
    agent.console = Console::open(&agent.root);
    let policy = agent.config.on_failure;
    let delay = agent.config.on_failure_delay;
    agent
        .console
        .show(&failure.card(policy.as_str(), delay.as_secs()));
    agent.console.line(&failure.marker(policy.as_str()));
    crate::stages::handover::write_report(agent);
    if policy != OnFailure::Halt {
        std::thread::sleep(delay);
    }
    stop(policy)
}

/// The last words of a bug: the same card, then a reboot, because nothing can be trusted any more.
pub fn end_of_panic(what: &str) {
    let mut console = Console::open(Path::new("/"));
    let failure = Failure::plain(Stage::Early, "internal-error", what, Remedy::TryAgain);
    console.show(&failure.card("reboot", 0));
    console.line(&failure.marker("reboot"));
    stop(OnFailure::Reboot)
}

fn stop(policy: OnFailure) -> ! {
    sys::power::sync();
    let how = match policy {
        OnFailure::Reboot => sys::power::End::Reboot,
        OnFailure::PowerOff => sys::power::End::PowerOff,
        OnFailure::Halt => sys::power::End::Halt,
    };
    loop {
        if let Err(error) = sys::power::end(how) {
            // If the kernel refuses, saying so and waiting is all that is left to PID 1.
            let refused = format!("initrd-agent: {} refused: {error}", policy.as_str());
            Console::open(Path::new("/")).line(&refused);
        }
        std::thread::park();
    }
}
