//! The newc writer. Invariant: the same contents give the same bytes: sorted by path, no clock, owner 0:0, inodes
//! counted from 1. Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.

use std::collections::BTreeMap;

use super::error::PackError;

/// What stands at one place of the initrd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file with its permission bits.
    File {
        /// Permission bits.
        mode: u32,
        /// Contents.
        bytes: Vec<u8>,
    },
    /// A symbolic link.
    Symlink(String),
}

/// A place in the initrd and what it is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The group of the size report.
    pub group: &'static str,
    /// What it is.
    pub node: Node,
}

/// All of the initrd: paths relative to its root, in byte order, so that a directory precedes what is in it.
#[derive(Debug, Default)]
pub struct Archive(BTreeMap<String, Entry>);

impl Archive {
    /// Puts a node at `place` (no leading slash) and makes the directories above it.
    ///
    /// # Errors
    /// [`PackError::Twice`] when something other than the same directory stands there already.
    pub fn put(&mut self, place: &str, group: &'static str, node: Node) -> Result<(), PackError> {
        for (end, _) in place.match_indices('/') {
            self.put_one(&place[..end], group, Node::Directory)?;
        }
        self.put_one(place, group, node)
    }

    fn put_one(&mut self, place: &str, group: &'static str, node: Node) -> Result<(), PackError> {
        match self.0.get(place) {
            Some(there) if there.node == Node::Directory && node == Node::Directory => Ok(()),
            Some(there) => Err(PackError::Twice {
                place: place.to_owned(),
                first: there.group,
                second: group,
            }),
            None => {
                self.0.insert(place.to_owned(), Entry { group, node });
                Ok(())
            }
        }
    }

    /// All entries in the order they are written.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.0.iter().map(|(place, entry)| (place.as_str(), entry))
    }

    /// The cpio, uncompressed.
    ///
    /// # Errors
    /// [`PackError::TooLarge`].
    pub fn to_newc(&self) -> Result<Vec<u8>, PackError> {
        let mut out = Vec::new();
        for (inode, (place, entry)) in (1..).zip(self.entries()) {
            let (mode, links, data): (u32, u32, &[u8]) = match &entry.node {
                Node::Directory => (0o040_755, 2, &[]),
                Node::File { mode, bytes } => (0o100_000 | (mode & 0o7777), 1, bytes),
                Node::Symlink(target) => (0o120_777, 1, target.as_bytes()),
            };
            let size = u32::try_from(data.len()).map_err(|_| PackError::TooLarge {
                place: place.to_owned(),
                bytes: data.len(),
            })?;
            member(
                &mut out,
                place,
                Header {
                    inode,
                    mode,
                    links,
                    size,
                },
                data,
            );
        }
        member(
            &mut out,
            "TRAILER!!!",
            Header {
                inode: 0,
                mode: 0,
                links: 1,
                size: 0,
            },
            &[],
        );
        // Tools expect whole 512-byte blocks.
        out.resize(out.len().next_multiple_of(512), 0);
        Ok(out)
    }
}

struct Header {
    inode: u32,
    mode: u32,
    links: u32,
    size: u32,
}

fn member(out: &mut Vec<u8>, name: &str, header: Header, data: &[u8]) {
    let Header {
        inode,
        mode,
        links,
        size,
    } = header;
    let name_size = name.len() + 1;
    out.extend_from_slice(b"070701");
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    for field in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(format!("{name_size:08x}{:08x}{name}\0", 0).as_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn directories_come_first_and_order_of_insertion_is_forgotten() {
        let file = |byte| Node::File {
            mode: 0o644,
            bytes: vec![byte],
        };
        let (mut one, mut two) = (Archive::default(), Archive::default());
        one.put("a/b/c", "x", file(1)).unwrap();
        one.put("a-b", "x", file(2)).unwrap();
        two.put("a-b", "x", file(2)).unwrap();
        two.put("a/b/c", "x", file(1)).unwrap();
        assert_eq!(one.to_newc().unwrap(), two.to_newc().unwrap());
        let order: Vec<_> = one.entries().map(|(place, _)| place).collect();
        assert_eq!(order, ["a", "a-b", "a/b", "a/b/c"]);
    }

    #[test]
    fn the_same_place_twice_is_refused() {
        let mut archive = Archive::default();
        archive
            .put("a/b", "modules", Node::Symlink("c".to_owned()))
            .unwrap();
        let error = archive.put("a/b/d", "added", Node::Directory).unwrap_err();
        assert!(error.to_string().contains("/a/b"), "{error}");
    }

    #[test]
    fn an_empty_archive_is_one_trailer_block() {
        let bytes = Archive::default().to_newc().unwrap();
        assert_eq!(bytes.len(), 512);
        assert!(bytes.starts_with(b"070701"));
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
