//! Tests of the parts together, on real formats.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod decision;
mod disk;
mod erasure;
mod machine;
mod tool;
mod variables;
