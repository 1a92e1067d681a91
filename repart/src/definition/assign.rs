//! From assignments to a [`Definition`]: what each key takes, and what is fatal (spec 1.2 to 1.5).

use std::path::{Path, PathBuf};

use super::{
    Content, CopyBlocks, CopyFiles, Definition, DefinitionError, Encrypt, Format, Integrity,
    LoadContext, OnCorruption, OwnKeys, RecoveryKey, Subvolume, Verity, Warning, WithoutTpm,
};
use crate::guid::Guid;
use crate::ini::{self, Item};
use crate::size::{parse_bool, parse_i32, parse_size, parse_u64, round_down, round_up};
use crate::types::{Designator, PartitionType};

/// Largest weight.
const WEIGHT_MAX: u64 = 1_000_000;
/// Bytes of a label, after expansion.
const LABEL_MAX: usize = 36;

/// A definition in the making: the type is known only at the end.
pub(super) struct Draft {
    definition: Definition,
    has_type: bool,
    pub(super) drop_ins: Vec<PathBuf>,
}

/// What to do with a value that cannot be used.
enum Bad {
    /// Warn and keep what was there.
    Ignore(String),
    /// Refuse the whole run.
    Fatal(String),
}

use Bad::{Fatal, Ignore};

impl Draft {
    pub(super) fn new(path: &Path) -> Self {
        let placeholder = PartitionType::from_uuid(Guid::NULL);
        Self {
            definition: Definition::new(path.to_owned(), placeholder),
            has_type: false,
            drop_ins: Vec::new(),
        }
    }

    /// Applies one file.
    pub(super) fn apply(
        &mut self,
        path: &Path,
        text: &[u8],
        context: &LoadContext,
        warnings: &mut Vec<Warning>,
    ) -> Result<(), DefinitionError> {
        let warning = |line, text| Warning {
            path: path.to_owned(),
            line,
            text,
        };
        let text = String::from_utf8_lossy(text);
        for item in ini::parse(&text, "Partition") {
            match item {
                Item::Odd { line, what } => warnings.push(warning(line, what)),
                Item::Assignment { line, key, value } => match self.assign(&key, &value, context) {
                    Ok(()) => {}
                    Err(Ignore(why)) => {
                        warnings.push(warning(line, format!("{key}={value} ignored: {why}")))
                    }
                    Err(Fatal(why)) => {
                        let text = format!("{key}={value}: {why}");
                        return Err(DefinitionError::Value {
                            path: path.to_owned(),
                            line,
                            text,
                        });
                    }
                },
            }
        }
        Ok(())
    }

    fn assign(&mut self, key: &str, value: &str, context: &LoadContext) -> Result<(), Bad> {
        if value.contains('\u{fffd}') {
            return Err(Ignore("not valid UTF-8".to_owned()));
        }
        if key == "Type" {
            let parsed = PartitionType::parse(value, context.architecture);
            let kind = parsed.ok_or_else(|| Fatal("unknown partition type".to_owned()))?;
            self.definition.partition_type = context
                .remap
                .map_or(kind, |arch| kind.for_architecture(arch));
            self.has_type = true;
            return Ok(());
        }
        if assign_layout(&mut self.definition, key, value, context)?
            || assign_content(&mut self.definition.content, key, value, context)?
            || assign_own(&mut self.definition.own, key, value)?
        {
            return Ok(());
        }
        Err(Ignore("unknown key".to_owned()))
    }

    /// Fills in what is implied and refuses combinations.
    pub(super) fn finish(self) -> Result<Definition, DefinitionError> {
        let mut definition = self.definition;
        definition.drop_ins = self.drop_ins;
        let path = definition.path.clone();
        let conflict = |text: &str| {
            Err(DefinitionError::Conflict {
                path: path.clone(),
                text: text.to_owned(),
            })
        };
        if !self.has_type {
            return conflict("no Type=");
        }
        for (min, max, what) in [
            (definition.size_min, definition.size_max, "Size"),
            (definition.padding_min, definition.padding_max, "Padding"),
        ] {
            if let (Some(min), Some(max)) = (min, max)
                && min > max
            {
                return conflict(&format!(
                    "{what}MinBytes= ({min}) is larger than {what}MaxBytes= ({max})"
                ));
            }
        }
        if let Some(text) = content_conflict(&definition) {
            return conflict(&text);
        }
        let is_esp = matches!(
            definition.partition_type.designator(),
            Designator::Esp | Designator::Xbootldr
        );
        let is_swap = definition.partition_type.designator() == Designator::Swap;
        let content = &mut definition.content;
        if content.format.is_none() && content.copy_blocks.is_none() {
            if is_swap {
                content.format = Some(Format::Swap);
            } else if has_files(content) || content.encrypt != Encrypt::Off {
                content.format = Some(if is_esp { Format::Vfat } else { Format::Ext4 });
            }
        }
        if content.format == Some(Format::Swap) && has_files(content) {
            return conflict("Format=swap cannot take files");
        }
        Ok(definition)
    }
}

fn has_files(content: &Content) -> bool {
    !content.copy_files.is_empty()
        || !content.make_directories.is_empty()
        || !content.make_symlinks.is_empty()
        || !content.subvolumes.is_empty()
}

fn content_conflict(definition: &Definition) -> Option<String> {
    let content = &definition.content;
    let text = if content.copy_blocks.is_some() && (content.format.is_some() || has_files(content))
    {
        "CopyBlocks= excludes Format=, CopyFiles=, MakeDirectories=, MakeSymlinks= and Subvolumes="
    } else if content.format.as_ref().is_some_and(Format::is_read_only)
        && content.copy_files.is_empty()
    {
        "a read-only file system needs CopyFiles="
    } else if matches!(content.verity, Verity::Hash | Verity::Signature)
        && (content.format.is_some() || has_files(content))
    {
        "Verity=hash and Verity=signature exclude Format= and files"
    } else if content.encrypt != Encrypt::Off
        && matches!(content.verity, Verity::Hash | Verity::Signature)
    {
        "Encrypt= excludes Verity=hash and Verity=signature"
    } else if content.verity == Verity::Signature
        && (definition.size_min.is_some() || definition.size_max.is_some())
    {
        "Verity=signature excludes SizeMinBytes= and SizeMaxBytes="
    } else if (content.verity == Verity::Off) != content.verity_match_key.is_none() {
        "Verity= and VerityMatchKey= need each other"
    } else if content
        .default_subvolume
        .as_ref()
        .is_some_and(|path| !content.subvolumes.iter().any(|sub| sub.path == *path))
    {
        "DefaultSubvolume= is none of Subvolumes="
    } else {
        return None;
    };
    Some(text.to_owned())
}

/// Keys that decide the table. `Ok(false)`: not one of them.
fn assign_layout(
    d: &mut Definition,
    key: &str,
    value: &str,
    context: &LoadContext,
) -> Result<bool, Bad> {
    match key {
        "Label" => {
            let label = expand(value, context)?;
            if label.len() > LABEL_MAX {
                return Err(Ignore(format!(
                    "{} bytes, at most {LABEL_MAX}",
                    label.len()
                )));
            }
            d.label = Some(label);
        }
        "UUID" => d.uuid = parse_uuid(value)?,
        "Priority" => {
            d.priority = parse_i32(value).ok_or_else(|| Ignore("not a number".to_owned()))?
        }
        "Weight" => d.weight = parse_weight(value)?,
        "PaddingWeight" => d.padding_weight = parse_weight(value)?,
        "SizeMinBytes" => d.size_min = Some(size_up(value)?),
        "SizeMaxBytes" => d.size_max = Some(size_down(value)?),
        "PaddingMinBytes" => d.padding_min = Some(size_up(value)?),
        "PaddingMaxBytes" => d.padding_max = Some(size_down(value)?),
        "FactoryReset" => d.factory_reset = boolean(value)?,
        "Flags" => d.flags = parse_u64(value).ok_or_else(|| Ignore("not a number".to_owned()))?,
        "NoAuto" => d.no_auto = tristate(value)?,
        "ReadOnly" => d.read_only = tristate(value)?,
        "GrowFileSystem" => d.grow_file_system = tristate(value)?,
        "SupplementFor" => d.supplement_for = (!value.is_empty()).then(|| value.to_owned()),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Keys about what goes in.
fn assign_content(
    c: &mut Content,
    key: &str,
    value: &str,
    context: &LoadContext,
) -> Result<bool, Bad> {
    match key {
        "Format" if value.is_empty() => return Err(Ignore("empty".to_owned())),
        "Format" => c.format = Some(Format::parse(value)),
        "Encrypt" => c.encrypt = parse_encrypt(value)?,
        "CopyBlocks" => {
            c.copy_blocks = match value {
                "" => None,
                "auto" => Some(CopyBlocks::Auto),
                path => Some(CopyBlocks::Path(absolute(path, context)?)),
            }
        }
        "CopyFiles" if value.is_empty() => c.copy_files.clear(),
        "CopyFiles" => c.copy_files.push(parse_copy_files(value, context)?),
        "ExcludeFiles" => extend_paths(&mut c.exclude_files, value, context)?,
        "ExcludeFilesTarget" => extend_paths(&mut c.exclude_files_target, value, context)?,
        "MakeDirectories" => extend_paths(&mut c.make_directories, value, context)?,
        "MakeSymlinks" if value.is_empty() => c.make_symlinks.clear(),
        "MakeSymlinks" => {
            for word in value.split_whitespace() {
                let (path, target) = word
                    .split_once(':')
                    .ok_or_else(|| Ignore("no ':' in it".to_owned()))?;
                c.make_symlinks.push((
                    absolute(path, context)?,
                    PathBuf::from(expand(target, context)?),
                ));
            }
        }
        "Subvolumes" if value.is_empty() => c.subvolumes.clear(),
        "Subvolumes" => {
            for word in value.split_whitespace() {
                c.subvolumes.push(parse_subvolume(word, context)?);
            }
        }
        "DefaultSubvolume" => {
            c.default_subvolume = if value.is_empty() {
                None
            } else {
                Some(absolute(value, context)?)
            }
        }
        "VolumeLabel" => c.volume_label = Some(expand(value, context)?),
        "VolumeName" => c.volume_name = Some(value.to_owned()),
        "KeyFile" => {
            c.key_file = if value.is_empty() {
                None
            } else {
                Some(absolute(value, context)?)
            }
        }
        "TPM2PCRs" => c.tpm2_pcrs = Some(value.to_owned()),
        "EncryptKDF" => c.encrypt_kdf = Some(value.to_owned()),
        "Discard" => c.discard = tristate(value)?,
        "FileSystemSectorSize" => c.file_system_sector_size = Some(power_of_two(value)?),
        "AddValidateFS" => c.add_validate_fs = tristate(value)?,
        "Verity" => c.verity = parse_verity(value)?,
        "VerityMatchKey" => c.verity_match_key = (!value.is_empty()).then(|| value.to_owned()),
        "VerityDataBlockSizeBytes" | "VerityHashBlockSizeBytes" => drop(power_of_two(value)?),
        "Minimize" if matches!(value, "" | "off" | "no" | "false" | "0") => {}
        "Minimize" | "Compression" | "CompressionLevel" | "Integrity" | "IntegrityAlgorithm"
        | "BlockDeviceReplace" => {
            c.build_only.push(format!("{key}={value}"));
        }
        "MountPoint" if value.is_empty() => c.mount_points.clear(),
        // The options are for --generate-fstab=, which is not ours.
        "MountPoint" => {
            let path = value.split(':').next().unwrap_or_default();
            if !path.starts_with('/') {
                return Err(Ignore("not an absolute path".to_owned()));
            }
            c.mount_points.push(path.to_owned());
        }
        // Only read by --split= and --generate-crypttab=, which are not ours.
        "SplitName" | "EncryptedVolume" => c.without_effect.push(key.to_owned()),
        _ => return Ok(false),
    }
    Ok(true)
}

/// The keys that begin with `X-`.
fn assign_own(own: &mut OwnKeys, key: &str, value: &str) -> Result<bool, Bad> {
    let unknown = || Ignore("unknown value".to_owned());
    match key {
        "X-Integrity" => {
            own.integrity = match value {
                "tpm2" => Some(Integrity::Tpm2),
                "" | "off" | "no" => None,
                // Silently losing integrity protection is worse than not booting.
                _ => return Err(Fatal("unknown value".to_owned())),
            }
        }
        "X-RecoveryKey" => {
            own.recovery_key = Some(match value {
                "show" => RecoveryKey::Show,
                "escrow" => RecoveryKey::Escrow,
                "off" => RecoveryKey::Off,
                _ => return Err(unknown()),
            });
        }
        "X-OnCorruption" => {
            own.on_corruption = Some(match value {
                "fail" => OnCorruption::Fail,
                "recreate" => OnCorruption::Recreate,
                _ => return Err(unknown()),
            });
        }
        "X-WithoutTPM" => {
            own.without_tpm = Some(match value {
                "refuse" => WithoutTpm::Refuse,
                "passphrase" => WithoutTpm::Passphrase,
                "keyfile" => WithoutTpm::KeyFile,
                _ => return Err(unknown()),
            });
        }
        _ if key.starts_with("X-") => drop(own.other.insert(key.to_owned(), value.to_owned())),
        _ => return Ok(false),
    }
    Ok(true)
}

fn expand(value: &str, context: &LoadContext) -> Result<String, Bad> {
    context
        .specifiers
        .expand(value)
        .map_err(|error| Ignore(error.to_string()))
}

fn absolute(value: &str, context: &LoadContext) -> Result<PathBuf, Bad> {
    let path = PathBuf::from(expand(value, context)?);
    if path.is_absolute() && !path.components().any(|part| part.as_os_str() == "..") {
        return Ok(path);
    }
    Err(Ignore("not an absolute path without ..".to_owned()))
}

fn extend_paths(list: &mut Vec<PathBuf>, value: &str, context: &LoadContext) -> Result<(), Bad> {
    if value.is_empty() {
        list.clear();
    }
    for word in value.split_whitespace() {
        list.push(absolute(word, context)?);
    }
    Ok(())
}

fn parse_uuid(value: &str) -> Result<Option<Guid>, Bad> {
    match value {
        "" => Ok(None),
        "null" => Ok(Some(Guid::NULL)),
        text => Guid::parse(text)
            .map(Some)
            .ok_or_else(|| Ignore("not a UUID".to_owned())),
    }
}

fn parse_weight(value: &str) -> Result<u32, Bad> {
    let weight = parse_u64(value).filter(|weight| *weight <= WEIGHT_MAX);
    weight
        .and_then(|weight| u32::try_from(weight).ok())
        .ok_or_else(|| Ignore(format!("not in 0…{WEIGHT_MAX}")))
}

fn size(value: &str) -> Result<u64, Bad> {
    parse_size(value).ok_or_else(|| Fatal("not a size".to_owned()))
}

fn size_up(value: &str) -> Result<u64, Bad> {
    Ok(round_up(size(value)?, 4096))
}

fn size_down(value: &str) -> Result<u64, Bad> {
    Ok(round_down(size(value)?, 4096))
}

fn boolean(value: &str) -> Result<bool, Bad> {
    parse_bool(value).ok_or_else(|| Ignore("not a boolean".to_owned()))
}

fn tristate(value: &str) -> Result<Option<bool>, Bad> {
    if value.is_empty() {
        Ok(None)
    } else {
        boolean(value).map(Some)
    }
}

fn power_of_two(value: &str) -> Result<u64, Bad> {
    let bytes = size(value)?;
    if bytes.is_power_of_two() && (512..=4096).contains(&bytes) {
        return Ok(bytes);
    }
    Err(Fatal("not a power of two in 512…4096".to_owned()))
}

fn parse_encrypt(value: &str) -> Result<Encrypt, Bad> {
    Ok(match value {
        "key-file" => Encrypt::KeyFile,
        "tpm2" => Encrypt::Tpm2,
        "key-file+tpm2" => Encrypt::KeyFileTpm2,
        other => match parse_bool(other) {
            Some(true) => Encrypt::KeyFile,
            Some(false) => Encrypt::Off,
            // A typo here must not leave a disk in the clear; systemd only warns.
            None => {
                return Err(Fatal(
                    "not one of off, key-file, tpm2, key-file+tpm2".to_owned(),
                ));
            }
        },
    })
}

fn parse_verity(value: &str) -> Result<Verity, Bad> {
    Ok(match value {
        "data" => Verity::Data,
        "hash" => Verity::Hash,
        "signature" => Verity::Signature,
        other if parse_bool(other) == Some(false) => Verity::Off,
        _ => return Err(Ignore("unknown value".to_owned())),
    })
}

fn parse_copy_files(value: &str, context: &LoadContext) -> Result<CopyFiles, Bad> {
    let mut words = value.splitn(3, ':');
    let source = absolute(words.next().unwrap_or_default(), context)?;
    let target = match words.next() {
        Some("") | None => source.clone(),
        Some(target) => absolute(target, context)
            .map_err(|_| Fatal("target is not an absolute path".to_owned()))?,
    };
    Ok(CopyFiles {
        source,
        target,
        options: words.next().unwrap_or_default().to_owned(),
    })
}

fn parse_subvolume(word: &str, context: &LoadContext) -> Result<Subvolume, Bad> {
    let (path, flags) = word.split_once(':').unwrap_or((word, ""));
    let mut subvolume = Subvolume {
        path: absolute(path, context)?,
        read_only: false,
        no_data_cow: false,
    };
    for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
        match flag {
            "ro" => subvolume.read_only = true,
            "nodatacow" => subvolume.no_data_cow = true,
            other => return Err(Ignore(format!("unknown flag {other}"))),
        }
    }
    Ok(subvolume)
}
