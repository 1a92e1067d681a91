//! switchroot
