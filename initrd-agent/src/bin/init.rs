//! `init`: PID 1 of the initrd.
//!
//! Invariant: never returns, never panics into the kernel, never drops to a shell. Whatever goes wrong ends in a card,
//! a marker and the action the policy names.

use initrd_agent::agent::Agent;
use initrd_agent::boot;
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    if !rustix::process::getpid().is_init() {
        eprintln!("init: this is PID 1 of an initrd; pack it into a UKI with `initrd-agent pack`");
        return ExitCode::from(2);
    }
    std::panic::set_hook(Box::new(|panic| boot::end_of_panic(&panic.to_string())));
    let mut agent = Agent::new(PathBuf::from("/"));
    match boot::boot(&mut agent) {
        Ok(never) => match never {},
        Err(failure) => boot::end(&mut agent, &failure),
    }
}
