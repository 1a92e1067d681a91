//! What `init` (PID 1) and `initrd-agent` (the tool a person runs) share: the only crate that logs, decides and exits.

pub mod agent;
pub mod bootdisk;
pub mod cmdline;
pub mod config;
pub mod console;
pub mod efi;
pub mod failure;
pub mod report;
