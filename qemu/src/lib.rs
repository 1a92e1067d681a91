//! Boots the artefact in virtual machines and judges it from outside.
//!
//! Owns the machine harness ([`Machine`]), the scenarios ([`scenarios`], one file each) and the measurements
//! ([`measure`]). It knows two things about what it boots: the console contract (`stage=`, `handover`, `failed`) and
//! what *other people's* tools say about the disk afterwards. Invariant: none of our libraries is linked here, so a
//! mistake in them cannot also be in the judge.

pub mod bench;
pub mod console;
pub mod contract;
pub mod demo;
pub mod disk;
pub mod error;
pub mod evidence;
pub mod firmware;
pub mod machine;
pub mod measure;
pub mod qmp;
pub mod runner;
pub mod scenarios;
pub mod tpm;
pub mod verdict;

pub use bench::{Bench, Ctx};
pub use console::Seen;
pub use disk::{Bus, Disk};
pub use error::{Error, Result};
pub use machine::{Boot, Clock, Machine, Off, Running};
pub use runner::{Outcome, Scenario, run};
pub use tpm::TpmModel;

/// Debian packages (12 and 13) that the harness and the scenarios call.
pub const PACKAGES: &[&str] = &[
    "cryptsetup-bin",
    "fdisk",
    "ovmf",
    "qemu-system-x86",
    "swtpm",
    "swtpm-tools",
    "util-linux",
];
