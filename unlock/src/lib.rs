//! A partition in, a mapped block device out: dm-verity, LUKS2 and the TPM2 secrets that open it.
//!
//! - [`verity`] maps the verified `/usr`.
//! - [`tpm`] measures, seals and unseals; [`eventlog`] records what was measured the way systemd does.
//! - [`luks`] makes and opens LUKS2 volumes whose key slot is sealed in a `systemd-tpm2` token.
//! - [`udev`] is what the booted system's udev must find to accept a mapping it did not see being made.
//!
//! What is made here is what systemd's tools make: a volume opens with systemd-cryptsetup and the other way round.
//!
//! libcryptsetup is not thread-safe: everything in [`verity`] and [`luks`] must be called from one thread, always the
//! same (libcryptsetup-rs panics otherwise). Secrets are wiped when they are dropped and have no `Debug`.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")
)]

mod crypt;
pub mod eventlog;
pub mod luks;
mod mapping;
pub mod tpm;
pub mod udev;
pub mod verity;

pub use crypt::CryptError;
pub use mapping::{Mapping, MappingError, close};
