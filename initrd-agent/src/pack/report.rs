//! What takes the room: the report `pack` prints.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::cpio::{Archive, Node};

/// How many files the long report names.
const TOP: usize = 25;

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The initrd.
    pub output: PathBuf,
    /// Its bytes.
    pub compressed: usize,
    /// Bytes of the cpio before compression.
    pub uncompressed: usize,
    /// Files and bytes a group, in order of name.
    pub groups: BTreeMap<&'static str, (usize, usize)>,
    /// Every file with its size, largest first.
    pub files: Vec<(String, usize)>,
    /// How many modules.
    pub modules: usize,
    /// Wanted modules that are part of the kernel.
    pub builtin: Vec<&'static str>,
    /// Wanted modules this kernel does not have.
    pub absent: Vec<&'static str>,
    /// Firmware that modules name and the tree lacks: module and file.
    pub no_firmware: Vec<(String, String)>,
    /// Whether the long form is wanted.
    pub long: bool,
}

impl Report {
    /// Adds up the archive.
    #[must_use]
    pub fn of(archive: &Archive, output: PathBuf, long: bool) -> Self {
        let mut groups: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
        let mut files = Vec::new();
        let mut modules = 0;
        for (place, entry) in archive.entries() {
            let Node::File { bytes, .. } = &entry.node else {
                continue;
            };
            let group = groups.entry(entry.group).or_default();
            group.0 += 1;
            group.1 += bytes.len();
            modules += usize::from(place.ends_with(".ko"));
            files.push((place.to_owned(), bytes.len()));
        }
        files.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Self {
            output,
            compressed: 0,
            uncompressed: 0,
            groups,
            files,
            modules,
            builtin: Vec::new(),
            absent: Vec::new(),
            no_firmware: Vec::new(),
            long,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.long {
            writeln!(f, "{:>10}  largest files", "bytes")?;
            for (place, bytes) in self.files.iter().take(TOP) {
                writeln!(f, "{bytes:>10}  /{place}")?;
            }
            writeln!(f, "built into the kernel: {}", self.builtin.join(" "))?;
            writeln!(f, "not in this kernel: {}", self.absent.join(" "))?;
        }
        writeln!(f, "{:>10} {:>6}  group", "bytes", "files")?;
        for (group, (count, bytes)) in &self.groups {
            writeln!(f, "{bytes:>10} {count:>6}  {group}")?;
        }
        for (module, firmware) in self.no_firmware.iter().filter(|_| self.long) {
            writeln!(
                f,
                "no firmware {firmware} in the tree, which {module} may ask for"
            )?;
        }
        if !self.no_firmware.is_empty() && !self.long {
            let count = self.no_firmware.len();
            writeln!(
                f,
                "{count} firmware files that modules may ask for are not in the tree (--size-report names them)"
            )?;
        }
        let (out, from, to) = (self.output.display(), self.uncompressed, self.compressed);
        writeln!(
            f,
            "{out}: {to} bytes, from {from}; {} modules",
            self.modules
        )
    }
}
