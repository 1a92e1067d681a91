//! What `init` (PID 1) and `initrd-agent` (the tool a person runs) share: the only crate that logs, decides and exits.

pub mod agent;
pub mod boot;
pub mod bootdisk;
pub mod cmdline;
pub mod config;
pub mod console;
pub mod devices;
pub mod efi;
pub mod failure;
pub mod install;
pub mod pack;
pub mod repart_cli;
pub mod report;
pub mod reset;
pub mod stages;
pub mod trust;
pub mod view;
pub mod volumes;
