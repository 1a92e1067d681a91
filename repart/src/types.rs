//! Partition types: identifiers, canonical names, and which attribute bits a type knows
//! (spec 1.4 and 1.7).

use crate::architectures::{ARCHITECTURES, ArchTypes};
use crate::guid::Guid;

/// An architecture of the Discoverable Partitions Specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Architecture(usize);

impl Architecture {
    /// The architecture this program was built for; x86-64 where the specification has no name for it.
    #[must_use]
    pub fn native() -> Self {
        Self::parse(std::env::consts::ARCH).unwrap_or(Self(ARCHITECTURES.len() - 1))
    }

    /// Canonical name or alias (`x86-64`, `amd64`, `aarch64`, …).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        ARCHITECTURES
            .iter()
            .position(|arch| arch.name == text || arch.aliases.contains(&text))
            .map(Self)
    }

    /// Canonical name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.types().name
    }

    fn types(self) -> &'static ArchTypes {
        &ARCHITECTURES[self.0.min(ARCHITECTURES.len() - 1)]
    }

    /// The 32-bit sibling, which `root-secondary` names.
    fn secondary(self) -> Option<Self> {
        match self.name() {
            "x86-64" => Self::parse("x86"),
            "arm64" => Self::parse("arm"),
            _ => None,
        }
    }
}

/// What a partition is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub enum Designator {
    Root,
    RootVerity,
    RootVeritySig,
    Usr,
    UsrVerity,
    UsrVeritySig,
    Home,
    Srv,
    Esp,
    Xbootldr,
    Swap,
    Tmp,
    Var,
    UserHome,
    LinuxGeneric,
    /// A type without a name.
    Unknown,
}

use Designator as D;

const FIXED: &[(&str, D, u128)] = &[
    ("esp", D::Esp, 0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b),
    (
        "xbootldr",
        D::Xbootldr,
        0xbc13c2ff_59e6_4262_a352_b275fd6f7172,
    ),
    ("swap", D::Swap, 0x0657fd6d_a4ab_43c4_84e5_0933c84b4f4f),
    ("home", D::Home, 0x933ac7e1_2eb4_4f13_b844_0e14e2aef915),
    ("srv", D::Srv, 0x3b8f8425_20e0_4f3b_907f_1a25a76f98e8),
    ("var", D::Var, 0x4d21b016_b534_45c2_a9fb_5c16e091fd2d),
    ("tmp", D::Tmp, 0x7ec6f557_3bc5_4aca_b293_16ef5df639d1),
    (
        "user-home",
        D::UserHome,
        0x773f91ef_66d4_49b5_bd83_d683bf40ad16,
    ),
    (
        "linux-generic",
        D::LinuxGeneric,
        0x0fc63daf_8483_4772_8e79_3d69d8477de4,
    ),
];

const ROOT: [D; 3] = [D::Root, D::RootVerity, D::RootVeritySig];
const USR: [D; 3] = [D::Usr, D::UsrVerity, D::UsrVeritySig];
const SUFFIX: [&str; 3] = ["", "-verity", "-verity-sig"];

/// A partition type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionType {
    uuid: Guid,
    designator: Designator,
    architecture: Option<Architecture>,
}

impl PartitionType {
    /// The type with this UUID, named or not.
    #[must_use]
    pub fn from_uuid(uuid: Guid) -> Self {
        if let Some((_, designator, _)) = FIXED
            .iter()
            .find(|(_, _, value)| Guid::from_u128(*value) == uuid)
        {
            return Self {
                uuid,
                designator: *designator,
                architecture: None,
            };
        }
        for (at, arch) in ARCHITECTURES.iter().enumerate() {
            for (values, designators) in [(&arch.root, ROOT), (&arch.usr, USR)] {
                if let Some(kind) = values
                    .iter()
                    .position(|value| Guid::from_u128(*value) == uuid)
                {
                    return Self {
                        uuid,
                        designator: designators[kind],
                        architecture: Some(Architecture(at)),
                    };
                }
            }
        }
        Self {
            uuid,
            designator: D::Unknown,
            architecture: None,
        }
    }

    /// Parses an identifier or a UUID. `native` is what `root`, `usr`, … mean.
    #[must_use]
    pub fn parse(text: &str, native: Architecture) -> Option<Self> {
        if let Some((_, _, value)) = FIXED.iter().find(|(name, _, _)| *name == text) {
            return Some(Self::from_uuid(Guid::from_u128(*value)));
        }
        Self::parse_named(text, native).or_else(|| {
            Guid::parse(text)
                .filter(|uuid| !uuid.is_null())
                .map(Self::from_uuid)
        })
    }

    fn parse_named(text: &str, native: Architecture) -> Option<Self> {
        let (usr, rest) = match text.strip_prefix("root") {
            Some(rest) => (false, rest),
            None => (true, text.strip_prefix("usr")?),
        };
        let (kind, middle) = [2, 1, 0]
            .into_iter()
            .find_map(|kind| Some((kind, rest.strip_suffix(SUFFIX[kind])?)))?;
        let arch = match middle.strip_prefix('-') {
            None if middle.is_empty() => native,
            None => return None,
            Some("secondary") => native.secondary()?,
            Some(name) => Architecture::parse(name)?,
        };
        let values = if usr {
            arch.types().usr
        } else {
            arch.types().root
        };
        Some(Self::from_uuid(Guid::from_u128(values[kind])))
    }

    /// The same purpose for another architecture (`--architecture=`); types without one are unchanged.
    #[must_use]
    pub fn for_architecture(self, arch: Architecture) -> Self {
        if self.architecture.is_none() {
            return self;
        }
        let kind = |set: [D; 3]| {
            set.iter()
                .position(|designator| *designator == self.designator)
        };
        let value = match (kind(ROOT), kind(USR)) {
            (Some(at), _) => arch.types().root[at],
            (None, Some(at)) => arch.types().usr[at],
            (None, None) => return self,
        };
        Self::from_uuid(Guid::from_u128(value))
    }

    /// The type UUID.
    #[must_use]
    pub fn uuid(&self) -> Guid {
        self.uuid
    }

    /// What it is for.
    #[must_use]
    pub fn designator(&self) -> Designator {
        self.designator
    }

    /// The canonical name, e.g. `root-x86-64-verity`; `None` for a type without a name.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        if let Some((name, _, _)) = FIXED
            .iter()
            .find(|(_, designator, _)| *designator == self.designator)
        {
            return Some((*name).to_owned());
        }
        let arch = self.architecture?.name();
        for (base, set) in [("root", ROOT), ("usr", USR)] {
            if let Some(kind) = set
                .iter()
                .position(|designator| *designator == self.designator)
            {
                return Some(format!("{base}-{arch}{}", SUFFIX[kind]));
            }
        }
        None
    }

    /// The canonical name, or the UUID of a type that has none.
    #[must_use]
    pub fn name_or_uuid(&self) -> String {
        self.name().unwrap_or_else(|| self.uuid.to_string())
    }

    /// root-verity-sig and usr-verity-sig partitions always have 16 KiB.
    #[must_use]
    pub fn is_verity_sig(&self) -> bool {
        matches!(self.designator, D::RootVeritySig | D::UsrVeritySig)
    }

    /// A hash or signature partition.
    #[must_use]
    pub fn is_verity(&self) -> bool {
        self.is_verity_sig() || matches!(self.designator, D::RootVerity | D::UsrVerity)
    }

    /// Bit 63 has a meaning for this type.
    #[must_use]
    pub fn knows_no_auto(&self) -> bool {
        self.knows_read_only() && !self.is_verity_sig() || self.designator == D::Swap
    }

    /// Bit 60 has a meaning for this type.
    #[must_use]
    pub fn knows_read_only(&self) -> bool {
        self.knows_growfs() || self.is_verity()
    }

    /// Bit 59 has a meaning for this type.
    #[must_use]
    pub fn knows_growfs(&self) -> bool {
        matches!(
            self.designator,
            D::Root | D::Usr | D::Home | D::Srv | D::Var | D::Tmp | D::Xbootldr
        )
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn names_round_trip() {
        let native = Architecture::parse("x86-64").unwrap();
        for arch in ARCHITECTURES {
            for base in ["root", "usr"] {
                for suffix in SUFFIX {
                    let name = format!("{base}-{}{suffix}", arch.name);
                    let parsed = PartitionType::parse(&name, native).unwrap();
                    assert_eq!(parsed.name().unwrap(), name);
                    for alias in arch.aliases {
                        assert_eq!(
                            PartitionType::parse(&format!("{base}-{alias}{suffix}"), native),
                            Some(parsed)
                        );
                    }
                }
            }
        }
        for (name, _, _) in FIXED {
            assert_eq!(
                PartitionType::parse(name, native)
                    .unwrap()
                    .name()
                    .as_deref(),
                Some(*name)
            );
        }
        for bad in [
            "",
            "roots",
            "root-",
            "root-verity-",
            "nonsense",
            "root-secondary-secondary",
        ] {
            assert_eq!(PartitionType::parse(bad, native), None, "{bad}");
        }
    }

    #[test]
    fn uuids_are_distinct() {
        let mut all: Vec<u128> = FIXED.iter().map(|(_, _, value)| *value).collect();
        all.extend(
            ARCHITECTURES
                .iter()
                .flat_map(|arch| arch.root.into_iter().chain(arch.usr)),
        );
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!((count, all.len()), (135, 135));
    }
}
