//! The command line of `initrd-agent install`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::error::InstallError;
use super::{sets, uki};

pub(super) const HELP: &str = "\
initrd-agent install DISK [OPTIONS]

Copies this system (boot loader, unified kernel image, /usr with hash tree and signature)
onto DISK, beside what is there. Nothing that is there is changed or overwritten. DISK is a
block device or an image file; its root, swap and home are made by its own first boot.

Options:
  --source DISK                 install from this disk or image (default: the running system's)
  --usrhash HEX                 which version, where the source has several
  --definitions DIR             repart.d directory (repeatable; default: built in)
  --fallback-definitions DIR    tried where the first set does not fit (default: with XBOOTLDR)
  --esp-size BYTES              size of a new boot partition of the built-in sets (default: 512M)
  --sector-size BYTES           of an image file without a partition table
  --dry-run                     print what would be done
  --yes                         do not ask, even if DISK holds other systems
  --help                        print this text
";

/// What is to be done.
#[derive(Debug)]
pub(super) enum Request {
    Help,
    Install(Options),
}

#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) disk: PathBuf,
    pub(super) source: Option<PathBuf>,
    pub(super) usrhash: Option<[u8; 32]>,
    pub(super) definitions: Vec<PathBuf>,
    pub(super) fallback: Vec<PathBuf>,
    pub(super) boot_size: u64,
    pub(super) sector_size: Option<u32>,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
}

pub(super) fn parse(args: &[OsString]) -> Result<Request, InstallError> {
    let mut options = Options {
        boot_size: sets::BOOT_SIZE,
        ..Options::default()
    };
    let mut disk = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        if !text.starts_with("--") {
            if disk.replace(PathBuf::from(arg)).is_some() {
                return Err(InstallError::Usage("install takes one disk".to_owned()));
            }
            continue;
        }
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (&*text, None),
        };
        match name {
            "--help" => return Ok(Request::Help),
            "--dry-run" => options.dry_run = true,
            "--yes" => options.yes = true,
            "--source"
            | "--usrhash"
            | "--definitions"
            | "--fallback-definitions"
            | "--esp-size"
            | "--sector-size" => {
                let value = inline.or_else(|| args.next().cloned());
                let value =
                    value.ok_or_else(|| InstallError::Usage(format!("{name} needs a value")))?;
                options.take(name, &value)?;
            }
            _ => return Err(InstallError::Usage(format!("unknown option {name}"))),
        }
    }
    options.disk = disk.ok_or_else(|| InstallError::Usage("no disk is named".to_owned()))?;
    Ok(Request::Install(options))
}

impl Options {
    fn take(&mut self, name: &str, value: &OsStr) -> Result<(), InstallError> {
        let bad =
            |what: &str| InstallError::Usage(format!("{name}={}: {what}", value.to_string_lossy()));
        let text = value.to_str().unwrap_or_default();
        match name {
            "--source" => self.source = Some(value.into()),
            "--definitions" => self.definitions.push(value.into()),
            "--fallback-definitions" => self.fallback.push(value.into()),
            "--usrhash" => {
                let hash = uki::parse_hash(text);
                self.usrhash = Some(hash.ok_or_else(|| bad("not 64 hexadecimal digits"))?);
            }
            "--esp-size" => {
                self.boot_size = repart::parse_size(text).ok_or_else(|| bad("not a size"))?;
            }
            _ => {
                let size = text
                    .parse()
                    .ok()
                    .filter(|size| matches!(size, 512 | 1024 | 2048 | 4096));
                self.sector_size = Some(size.ok_or_else(|| bad("not 512, 1024, 2048 or 4096"))?);
            }
        }
        Ok(())
    }
}
