//! Factory reset: who asks for one, whether it was done already, and how what is marked becomes unreadable.
//!
//! Owns: the decision ([`request`]), the identity of a request and the mark it leaves in the partition table
//! ([`identity`]), the record that a reset has begun ([`doom`]), the erasure ([`erase`]), the EFI variables
//! ([`variable`]) and `initrd-agent reset` ([`command`]). The state machine and its argument are in README.md here.
//!
//! Invariant: once [`doom`] is on the disk the reset is finished by every later boot, whatever asks or does not ask
//! for it; before that not one byte is changed.

pub mod command;
pub mod doom;
pub mod erase;
pub mod identity;
pub mod luks;
pub mod osrelease;
pub mod request;
pub mod run;
pub mod variable;

#[cfg(test)]
mod tests;

/// Whether a step had to do anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// All was as wanted.
    Unchanged,
    /// Something was written.
    Changed,
}

impl Change {
    /// Changed if either is.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unchanged, Self::Unchanged) => Self::Unchanged,
            _ => Self::Changed,
        }
    }
}
