//! What the integration tests share: golden cases, a journaling disk, an independent look at a GPT.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::cast_possible_truncation, reason = "test disks are small")]

pub mod case;
pub mod image;
pub mod journal;
