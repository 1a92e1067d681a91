//! Mount options as people write them (`rootflags=`), split into what the mount takes and what the file system takes.

use std::ops::BitOr;

use rustix::mount::MountAttrFlags;

/// Attributes of one mount, as opposed to options of the file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(u32);

impl Attributes {
    /// None: read-write, relatime.
    pub const NONE: Self = Self(0);
    /// `ro`
    pub const RDONLY: Self = Self(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    /// `nosuid`
    pub const NOSUID: Self = Self(MountAttrFlags::MOUNT_ATTR_NOSUID.bits());
    /// `nodev`
    pub const NODEV: Self = Self(MountAttrFlags::MOUNT_ATTR_NODEV.bits());
    /// `noexec`
    pub const NOEXEC: Self = Self(MountAttrFlags::MOUNT_ATTR_NOEXEC.bits());
    /// `nosymfollow`
    pub const NOSYMFOLLOW: Self = Self(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW.bits());
    /// `noatime`
    pub const NOATIME: Self = Self(MountAttrFlags::MOUNT_ATTR_NOATIME.bits());
    /// `strictatime`
    pub const STRICTATIME: Self = Self(MountAttrFlags::MOUNT_ATTR_STRICTATIME.bits());
    /// `nodiratime`
    pub const NODIRATIME: Self = Self(MountAttrFlags::MOUNT_ATTR_NODIRATIME.bits());

    const ATIME: u32 = MountAttrFlags::MOUNT_ATTR__ATIME.bits();

    /// Whether all of `other` are among these.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// The bits to clear before these are set: the access time modes are one field, not flags.
    pub(crate) const fn mask(self) -> u32 {
        if self.0 & Self::ATIME == 0 {
            0
        } else {
            Self::ATIME
        }
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    const fn with_atime(self, mode: Self) -> Self {
        Self(self.0 & !Self::ATIME | mode.0)
    }
}

impl BitOr for Attributes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Parsed mount options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// What the mount takes.
    pub attributes: Attributes,
    /// What the file system takes, in the order written: `key=value` or `key`.
    pub filesystem: Vec<(String, Option<String>)>,
}

impl MountOptions {
    /// Parses a comma-separated list; a comma within double quotes does not separate. Later options win.
    /// What only mount(8) and fstab know (`defaults`, `nofail`, `x-…`) is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut options = Self::default();
        for item in split(text) {
            options.add(item);
        }
        options
    }

    /// The same, read-only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.add("ro");
        self
    }

    /// The same with more attributes.
    #[must_use]
    pub fn with(mut self, attributes: Attributes) -> Self {
        self.attributes = self.attributes | attributes;
        self
    }

    /// Whether the last word was `ro`.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.attributes.contains(Attributes::RDONLY)
    }

    fn add(&mut self, item: &str) {
        let a = self.attributes;
        self.attributes = match item {
            "ro" => a | Attributes::RDONLY,
            "rw" => a.without(Attributes::RDONLY),
            "nosuid" => a | Attributes::NOSUID,
            "suid" => a.without(Attributes::NOSUID),
            "nodev" => a | Attributes::NODEV,
            "dev" => a.without(Attributes::NODEV),
            "noexec" => a | Attributes::NOEXEC,
            "exec" => a.without(Attributes::NOEXEC),
            "nosymfollow" => a | Attributes::NOSYMFOLLOW,
            "symfollow" => a.without(Attributes::NOSYMFOLLOW),
            "nodiratime" => a | Attributes::NODIRATIME,
            "diratime" => a.without(Attributes::NODIRATIME),
            "noatime" => a.with_atime(Attributes::NOATIME),
            "strictatime" => a.with_atime(Attributes::STRICTATIME),
            "atime" | "relatime" | "norelatime" | "nostrictatime" => a.with_atime(Attributes::NONE),
            "" | "defaults" | "auto" | "noauto" | "nofail" | "_netdev" | "user" | "nouser" => a,
            other => {
                if !other.starts_with("x-")
                    && !other.starts_with("X-")
                    && !other.starts_with("comment=")
                {
                    self.filesystem.push(match other.split_once('=') {
                        Some((key, value)) => {
                            (key.to_owned(), Some(value.trim_matches('"').to_owned()))
                        }
                        None => (other.to_owned(), None),
                    });
                }
                a
            }
        };
    }
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separates_mount_from_filesystem_options_and_the_last_word_wins() {
        let options = MountOptions::parse(
            "ro,compress=zstd:1,nodev,rw,noatime,relatime,discard,x-systemd.growfs,defaults,",
        );
        assert_eq!(options.attributes, Attributes::NODEV);
        assert!(!options.is_read_only());
        let expected = [
            ("compress".to_owned(), Some("zstd:1".to_owned())),
            ("discard".to_owned(), None),
        ];
        assert_eq!(options.filesystem, expected);
    }

    #[test]
    fn a_quoted_comma_does_not_separate() {
        let options = MountOptions::parse(r#"context="system_u:object_r:tmp_t:s0:c1,c2",ro"#);
        assert_eq!(
            options.filesystem,
            [(
                "context".to_owned(),
                Some("system_u:object_r:tmp_t:s0:c1,c2".to_owned())
            )]
        );
        assert!(options.is_read_only());
    }

    #[test]
    fn an_access_time_mode_replaces_the_one_before() {
        let options = MountOptions::parse("strictatime,noatime");
        assert_eq!(options.attributes, Attributes::NOATIME);
        assert_eq!(options.attributes.mask(), Attributes::ATIME);
        assert_eq!(Attributes::NODEV.mask(), 0);
    }
}
