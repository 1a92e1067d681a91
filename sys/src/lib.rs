//! Every system call of the project that no crate offers safely, each behind a safe function.
//!
//! Invariant: `unsafe` lives here and nowhere else, one operation a block, each with its argument. The functions decide
//! nothing: they return `std::io::Result`, and the caller says what it was doing and to which device.

pub mod block;
pub mod efivar;
pub mod filesystem;
pub mod keyring;
pub mod kmod;
pub mod memory;
pub mod mount;
pub mod power;
pub mod process;
pub mod swap;
pub mod uevent;
