//! repart
