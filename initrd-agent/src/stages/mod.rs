//! The stages of the boot, one file each, in the order of [`crate::boot::boot`].

pub mod contents;
pub mod devices;
pub mod early;
pub mod handover;
pub mod repart;
pub mod root;
pub mod unlock;
pub mod usr;
