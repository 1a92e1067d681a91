//! The command line without encryption, for this crate's own tests; what ships is `initrd-agent`'s binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    repart::cli::main(None)
}
