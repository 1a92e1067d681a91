//! Which partitions of the boot disk play a part in the booted system, and which.
//!
//! Owns: the roles of the Discoverable Partitions Specification that a first boot creates or a later boot mounts, their
//! device-mapper names and mount points (`systemd-gpt-auto-generator(8)`), so that systemd recognises what it finds.

use std::path::PathBuf;

/// The part a partition plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `/`.
    Root,
    /// `/home`.
    Home,
    /// `/srv`.
    Srv,
    /// `/var`.
    Var,
    /// Swap.
    Swap,
}

impl Role {
    /// The role of a partition type of this machine, by its canonical name (`repart.d(5)`). `tmp` (`/var/tmp`) has none: it
    /// is mounted below another volume, which the booted system does itself.
    #[must_use]
    pub fn of_type(name: &str) -> Option<Self> {
        match name {
            "root-x86-64" => Some(Self::Root),
            "home" => Some(Self::Home),
            "srv" => Some(Self::Srv),
            "var" => Some(Self::Var),
            "swap" => Some(Self::Swap),
            _ => None,
        }
    }

    /// Name below `/dev/mapper`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Home => "home",
            Self::Srv => "srv",
            Self::Var => "var",
            Self::Swap => "swap",
        }
    }

    /// Where it is mounted, relative to the new root; `None` for the root itself and for swap.
    #[must_use]
    pub fn mount_point(self) -> Option<&'static str> {
        match self {
            Self::Root | Self::Swap => None,
            Self::Home => Some("home"),
            Self::Srv => Some("srv"),
            Self::Var => Some("var"),
        }
    }
}

/// One volume, open and ready to be mounted.
#[derive(Debug)]
pub struct Volume {
    /// Its part.
    pub role: Role,
    /// Number of its partition.
    pub number: u32,
    /// The device to mount: the mapping of an encrypted volume, else the partition.
    pub node: PathBuf,
    /// True when this boot made it.
    pub created: bool,
    /// GPT attribute 60.
    pub read_only: bool,
    /// The file system is to fill its partition (GPT attribute 59).
    pub grow: bool,
}
