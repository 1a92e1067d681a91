//! What the targets share: a disk in memory, definition files in memory, and what must hold of every plan.

pub mod disk;
pub mod sound;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use repart::{DefinitionError, Definitions, FileContent, Files, LoadContext};

/// Definition files in memory, `00.conf` and so on; an empty one masks.
#[derive(Debug)]
pub struct Texts(pub Vec<Vec<u8>>);

impl Texts {
    /// Reads them all.
    ///
    /// # Errors
    /// What the parser refuses.
    pub fn load(&self) -> Result<Definitions, DefinitionError> {
        Definitions::load(self, &[PathBuf::from("/defs")], &LoadContext::default())
    }
}

impl Files for Texts {
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        if dir != Path::new("/defs") {
            return Ok(Vec::new());
        }
        Ok((0..self.0.len())
            .map(|at| format!("{at:02}.conf").into())
            .collect())
    }

    fn read(&self, path: &Path) -> io::Result<FileContent> {
        let text = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse::<usize>().ok())
            .and_then(|at| self.0.get(at))
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(if text.is_empty() {
            FileContent::Masked
        } else {
            FileContent::Text(text.clone())
        })
    }
}
