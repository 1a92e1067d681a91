//! systemd-repart's command line (crate `repart`), with encryption by crate `unlock`.

use std::process::ExitCode;

use initrd_agent::repart_cli::Luks;

fn main() -> ExitCode {
    repart::cli::main(Some(&mut Luks::new()))
}
