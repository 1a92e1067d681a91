//! `cargo xtask`: every task of the project, one file each. Owns the command line and the exit code; a task answers
//! with a line for the person or with the reason why not.

mod bench;
mod bench_repart;
mod boot;
mod check;
mod debian;
mod dist;
mod image;
mod mkfs;
mod options;
mod peer;
mod run;
mod scenarios;
mod setup;
mod sysroot;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use options::{Options, Task};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let options = match options::parse(&args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("cargo xtask: {error}\n\n{}", options::HELP);
            return ExitCode::from(2);
        }
    };
    match work(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\ncargo xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the task; false when it ran to its end and found something wrong.
fn work(options: &Options) -> Result<bool, String> {
    let workspace = workspace();
    match options.task {
        Task::Help => {
            println!("{}", options::HELP);
            Ok(true)
        }
        Task::Setup => setup::ensure().map(|()| true),
        Task::Sysroot => setup::ensure()
            .and_then(|()| sysroot::ensure(&workspace))
            .map(say),
        Task::Mkfs => setup::ensure().and_then(|()| mkfs::ensure()).map(say),
        Task::Build => dist::build(&workspace, options.quick).map(say),
        Task::Image => image::make(&workspace, options).map(|image| {
            [image.initrd, image.uki, image.disk]
                .map(say)
                .iter()
                .all(|said| *said)
        }),
        Task::Boot => boot::boot(&workspace, options),
        Task::Test => check::test(&workspace, options),
        Task::Lint => check::lint(&workspace),
        Task::Bench if options.only == "repart" => bench_repart::bench(&workspace, options),
        Task::Bench => bench::bench(&workspace, options),
        Task::PeerSuite => peer::task(&workspace, options),
    }
}

fn say(path: PathBuf) -> bool {
    println!("{}", path.display());
    true
}

/// The directory of the workspace this program was built in.
fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
