//! The tool a person runs.
fn main() {}
