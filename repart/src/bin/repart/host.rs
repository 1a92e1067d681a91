//! What the running system answers: seed, specifiers, sizes of CopyBlocks sources.

use std::io;
use std::path::{Path, PathBuf};

use repart::definition::CopyBlocks;
use repart::{Architecture, Definitions, Guid, Specifiers};

/// Below the root, `/` where there is none.
pub(crate) fn below(root: Option<&Path>, path: &str) -> PathBuf {
    match root {
        Some(root) => root.join(path.trim_start_matches('/')),
        None => PathBuf::from(path),
    }
}

/// Default directories, highest first.
pub(crate) fn definition_dirs(root: Option<&Path>) -> Vec<PathBuf> {
    [
        "/etc/repart.d",
        "/run/repart.d",
        "/usr/local/lib/repart.d",
        "/usr/lib/repart.d",
    ]
    .map(|dir| below(root, dir))
    .to_vec()
}

/// Reads a small file that may be absent.
fn optional(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The machine ID below the root; `None` if there is none yet.
pub(crate) fn machine_id(root: Option<&Path>) -> io::Result<Option<Guid>> {
    let path = below(root, "/etc/machine-id");
    let Some(text) = optional(&path)? else {
        return Ok(None);
    };
    match text.trim() {
        "" | "uninitialized" => Ok(None),
        id => Guid::parse(id)
            .filter(|_| id.len() == 32)
            .map(Some)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} holds no machine ID", path.display()),
                )
            }),
    }
}

/// 16 random bytes.
pub(crate) fn random() -> io::Result<Guid> {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    if got == bytes.len() {
        Ok(Guid::from_bytes(bytes))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Values of all specifiers.
pub(crate) fn specifiers(
    root: Option<&Path>,
    architecture: Architecture,
) -> io::Result<Specifiers> {
    let mut specifiers = Specifiers::default();
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(text) = optional(&below(root, path))? {
            specifiers.set_os_release(&text);
            break;
        }
    }
    if let Some(id) = machine_id(root)? {
        specifiers.set('m', id.to_string().replace('-', ""));
    }
    if let Some(id) = optional(Path::new("/proc/sys/kernel/random/boot_id"))? {
        specifiers.set('b', id.trim().replace('-', ""));
    }
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().into_owned();
    specifiers.set('l', host.split('.').next().unwrap_or_default());
    specifiers.set('q', host.clone());
    specifiers.set('H', host);
    specifiers.set('v', uname.release().to_string_lossy());
    specifiers.set('a', architecture.name());
    specifiers.set('T', "/tmp");
    specifiers.set('V', "/var/tmp");
    Ok(specifiers)
}

/// Fills in how much each `CopyBlocks=` source gives.
pub(crate) fn measure_sources(
    definitions: &mut Definitions,
    root: Option<&Path>,
) -> io::Result<()> {
    for definition in &mut definitions.list {
        if let Some(CopyBlocks::Path(path)) = &definition.content.copy_blocks {
            let source = below(root, &path.to_string_lossy());
            let len = repart::BlockDevice::open(&source, false, Some(512))
                .map(|source| repart::Disk::len(&source))
                .map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", source.display()))
                })?;
            if len == 0 || len % 512 != 0 {
                let text = format!(
                    "{} has {len} bytes, not a positive multiple of 512",
                    source.display()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            definition.content.copy_blocks_size = Some(len);
        }
    }
    Ok(())
}
