//! Finding the files: directories in order, masks, drop-ins (spec 1.1).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::assign::Draft;
use super::{DefinitionError, Definitions, LoadContext, Verity};
use crate::definition::Encrypt;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileContent {
    /// An empty file or a link to /dev/null: hides the name in all lower directories.
    Masked,
    /// A regular file.
    Text(Vec<u8>),
    /// A directory, a socket, …: as if it were not there.
    Other,
}

/// Where definition files come from.
pub trait Files {
    /// Names in a directory; an absent directory is empty.
    ///
    /// # Errors
    /// Whatever the source answers, except that it does not exist.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Content of a file, links followed.
    ///
    /// # Errors
    /// Whatever the source answers.
    fn read(&self, path: &Path) -> io::Result<FileContent>;
}

/// Files of the running system.
#[derive(Clone, Copy, Debug, Default)]
pub struct DirFiles;

impl Files for DirFiles {
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        match std::fs::read_dir(dir) {
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn read(&self, path: &Path) -> io::Result<FileContent> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            // A dangling link.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileContent::Other),
            Err(error) => return Err(error),
        };
        // Also where /dev is not populated, which is the case below a root that is not booted.
        if std::fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null")) {
            return Ok(FileContent::Masked);
        }
        if !metadata.is_file() {
            return Ok(FileContent::Other);
        }
        let text = std::fs::read(path)?;
        Ok(if text.is_empty() {
            FileContent::Masked
        } else {
            FileContent::Text(text)
        })
    }
}

impl Definitions {
    /// Reads all definitions of `dirs`, highest priority first.
    ///
    /// # Errors
    /// The first file that cannot be read or whose content must not be ignored.
    pub fn load(
        files: &impl Files,
        dirs: &[PathBuf],
        context: &LoadContext,
    ) -> Result<Self, DefinitionError> {
        let mut all = Self::default();
        for (name, (path, text)) in collect(files, dirs, |dir| dir.to_owned())? {
            let mut draft = Draft::new(&path);
            draft.apply(&path, &text, context, &mut all.warnings)?;
            let mut dropin_dir = name;
            dropin_dir.push(".d");
            for (path, text) in collect(files, dirs, |dir| dir.join(&dropin_dir))?.into_values() {
                draft.apply(&path, &text, context, &mut all.warnings)?;
                draft.drop_ins.push(path);
            }
            let definition = draft.finish()?;
            if context.filter.admits(&definition.partition_type) {
                all.list.push(definition);
            }
        }
        all.check_supplements()?;
        all.check_verity()?;
        Ok(all)
    }

    fn check_supplements(&self) -> Result<(), DefinitionError> {
        for (at, definition) in self.list.iter().enumerate() {
            let Some(target) = &definition.supplement_for else {
                continue;
            };
            let conflict = |text: String| DefinitionError::Conflict {
                path: definition.path.clone(),
                text,
            };
            let Some(found) = self.list.iter().find(|other| other.name() == target) else {
                return Err(conflict(format!(
                    "SupplementFor={target} names no definition"
                )));
            };
            if found.supplement_for.is_some() {
                return Err(conflict(format!(
                    "SupplementFor={target} is itself a supplement"
                )));
            }
            let twice = self.list[..at]
                .iter()
                .find(|other| other.supplement_for.as_ref() == Some(target));
            if let Some(other) = twice {
                let other = other.path.display();
                return Err(conflict(format!(
                    "SupplementFor={target} is already supplemented by {other}"
                )));
            }
            for (what, mins, maxes) in [
                (
                    "Size",
                    [definition.size_min, found.size_min],
                    [definition.size_max, found.size_max],
                ),
                (
                    "Padding",
                    [definition.padding_min, found.padding_min],
                    [definition.padding_max, found.padding_max],
                ),
            ] {
                if let (Some(min), Some(max)) = (
                    mins.into_iter().flatten().max(),
                    maxes.into_iter().flatten().min(),
                ) && min > max
                {
                    let text = format!(
                        "{what}MinBytes= ({min}) is larger than {what}MaxBytes= ({max}) when merged with {target}"
                    );
                    return Err(conflict(text));
                }
            }
            for side in [definition, found] {
                let content = &side.content;
                if content.copy_blocks.is_some()
                    || content.encrypt != Encrypt::Off
                    || content.verity != Verity::Off
                {
                    let side = side.path.display();
                    let text = format!(
                        "SupplementFor={target}: {side} has CopyBlocks=, Encrypt= or Verity=, which cannot be merged"
                    );
                    return Err(conflict(text));
                }
            }
        }
        Ok(())
    }

    fn check_verity(&self) -> Result<(), DefinitionError> {
        for definition in &self.list {
            let content = &definition.content;
            let conflict = |text: String| DefinitionError::Conflict {
                path: definition.path.clone(),
                text,
            };
            let siblings = |kind: Verity| {
                self.list
                    .iter()
                    .filter(|other| {
                        other.content.verity == kind
                            && other.content.verity_match_key == content.verity_match_key
                    })
                    .collect::<Vec<_>>()
            };
            let needed: &[Verity] = match content.verity {
                Verity::Off => &[],
                Verity::Data => &[Verity::Hash],
                Verity::Hash => &[Verity::Data],
                Verity::Signature => &[Verity::Data, Verity::Hash],
            };
            for kind in needed {
                let found = siblings(*kind);
                let [sibling] = found.as_slice() else {
                    let key = content.verity_match_key.as_deref().unwrap_or_default();
                    let count = found.len();
                    return Err(conflict(format!(
                        "{count} definitions with Verity={kind:?} and VerityMatchKey={key}, need 1"
                    )));
                };
                if sibling.priority != definition.priority {
                    let other = sibling.path.display();
                    return Err(conflict(format!(
                        "Priority= differs from that of its verity sibling {other}"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// `*.conf` of all directories by name, the highest directory winning, masked names gone.
fn collect(
    files: &impl Files,
    dirs: &[PathBuf],
    place: impl Fn(&Path) -> PathBuf,
) -> Result<BTreeMap<OsString, (PathBuf, Vec<u8>)>, DefinitionError> {
    let mut found: BTreeMap<OsString, Option<(PathBuf, Vec<u8>)>> = BTreeMap::new();
    for dir in dirs {
        let dir = place(dir);
        let names = files.list(&dir).map_err(|source| DefinitionError::Read {
            path: dir.clone(),
            source,
        })?;
        for name in names {
            if !name.as_bytes().ends_with(b".conf") || found.contains_key(&name) {
                continue;
            }
            let path = dir.join(&name);
            match files.read(&path).map_err(|source| DefinitionError::Read {
                path: path.clone(),
                source,
            })? {
                FileContent::Other => {}
                FileContent::Masked => drop(found.insert(name, None)),
                FileContent::Text(text) => drop(found.insert(name, Some((path, text)))),
            }
        }
    }
    Ok(found
        .into_iter()
        .filter_map(|(name, content)| Some((name, content?)))
        .collect())
}
