//! A private directory that is gone when this is.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// The directory, mode 0700.
pub(super) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// In `$TMPDIR`, else in `/var/tmp`: what is made here can be as large as a partition.
    pub(super) fn new() -> io::Result<Self> {
        let dir =
            std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let path = dir.join(format!("repart-{}", super::host::random()?));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A sparse file in it.
    pub(super) fn file(&self, name: &str, len: u64) -> io::Result<(File, PathBuf)> {
        let path = self.path.join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.set_len(len)?;
        Ok((file, path))
    }

    /// An empty directory in it.
    pub(super) fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            super::say(&format!(
                "repart: cannot remove {}: {error}",
                self.path.display()
            ));
        }
    }
}
