//! verity
