//! What goes into the initrd: gathers everything into an [`Archive`]. Invariant: every program is static, every module
//! comes with what it needs, decompressed, so that zstd sees plain bytes (smaller in all, and faster to load).

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::args::Options;
use super::compressed;
use super::cpio::{Archive, Node};
use super::elf;
use super::error::PackError;
use super::modules::{Index, Resolved};
use super::table::{self, Wanted};
use crate::config::Config;

/// The directories PID 1 mounts onto or writes to. /dev/console is in the initramfs that every kernel has built in.
const DIRECTORIES: [&str; 8] = [
    "dev",
    "etc",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr/lib/modules",
    "usr/sbin",
];

/// What was found besides the contents.
#[derive(Debug, Default)]
pub struct Found {
    /// Wanted modules that are part of the kernel.
    pub builtin: Vec<&'static str>,
    /// Wanted modules the kernel does not have.
    pub absent: Vec<&'static str>,
    /// Firmware the tree lacks: module and file.
    pub no_firmware: Vec<(String, String)>,
}

/// Gathers all contents.
///
/// # Errors
/// [`PackError`].
pub fn collect(options: &Options) -> Result<(Archive, Found), PackError> {
    let mut archive = Archive::default();
    base(&mut archive, options)?;
    programs(&mut archive, options)?;
    let found = modules(&mut archive, options)?;
    for (source, destination) in &options.add {
        let place = destination
            .strip_prefix("/")
            .unwrap_or(destination)
            .display()
            .to_string();
        add(&mut archive, source, &place)?;
    }
    Ok((archive, found))
}

fn base(archive: &mut Archive, options: &Options) -> Result<(), PackError> {
    for directory in DIRECTORIES {
        archive.put(directory, "base", Node::Directory)?;
    }
    // The kernel looks for firmware in /lib/firmware, whatever the distribution's layout.
    archive.put("lib", "base", Node::Symlink("usr/lib".to_owned()))?;
    let version = env!("CARGO_PKG_VERSION");
    let release = format!("ID=initrd-agent\nNAME=\"initrd-agent\"\nVERSION_ID={version}\n");
    archive.put("etc/initrd-release", "base", text(release))?;
    if let Some(path) = &options.config {
        archive.put("etc/initrd-agent/agent.toml", "base", text(config(path)?))?;
    }
    Ok(())
}

fn text(text: String) -> Node {
    Node::File {
        mode: 0o644,
        bytes: text.into_bytes(),
    }
}

fn config(path: &Path) -> Result<String, PackError> {
    let text = std::fs::read_to_string(path).map_err(|source| PackError::Read {
        path: path.to_owned(),
        purpose: "boot policy",
        remedy: "give another --config",
        source,
    })?;
    let (_, unknown) = Config::from_toml(&text).map_err(|source| PackError::Config {
        path: path.to_owned(),
        source,
    })?;
    if !unknown.is_empty() {
        return Err(PackError::ConfigKeys {
            path: path.to_owned(),
            keys: unknown,
        });
    }
    Ok(text)
}

fn programs(archive: &mut Archive, options: &Options) -> Result<(), PackError> {
    let init = program(
        &options.init,
        "PID 1",
        "run `cargo xtask build`, or give --init",
    )?;
    if let Node::File { bytes, .. } = &init {
        // For the report: hashing itself would cost PID 1 a tenth of its boot.
        let digest: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        archive.put("etc/initrd-agent/init.sha256", "base", text(digest + "\n"))?;
    }
    archive.put("init", "init", init)?;
    for name in &options.mkfs {
        let path = options.mkfs_dir.join(format!("mkfs.{name}"));
        let mkfs = program(
            &path,
            "makes a file system at first boot",
            "run `cargo xtask build`, or give --mkfs-dir",
        )?;
        archive.put(&format!("usr/sbin/mkfs.{name}"), "mkfs", mkfs)?;
    }
    Ok(())
}

fn program(path: &Path, purpose: &'static str, remedy: &'static str) -> Result<Node, PackError> {
    let bytes = std::fs::read(path).map_err(|source| PackError::Read {
        path: path.to_owned(),
        purpose,
        remedy,
        source,
    })?;
    elf::check_static(&bytes).map_err(|what| PackError::NotStatic {
        path: path.to_owned(),
        what,
    })?;
    Ok(Node::File { mode: 0o755, bytes })
}

fn modules(archive: &mut Archive, options: &Options) -> Result<Found, PackError> {
    let index = Index::load(&options.tree, &options.kernel)?;
    let mut found = Found::default();
    let roots = roots(&index, options, &mut found)?;
    let packed = index.closure(roots);
    let stored = options.tree.join("usr/lib/modules").join(&options.kernel);
    let place = format!("usr/lib/modules/{}", options.kernel);
    let mut firmware = BTreeMap::new();
    for (name, area) in &packed {
        let Some(module) = index.module(name) else {
            continue;
        };
        let path = stored.join(&module.path);
        let bytes = compressed::read(&path, "kernel module")?;
        let info = elf::modinfo(&bytes).map_err(|what| PackError::BadModule { path, what })?;
        for (_, file) in info.into_iter().filter(|(key, _)| key == "firmware") {
            firmware.entry(file).or_insert_with(|| name.clone());
        }
        let file = format!("{place}/{}", compressed::plain_name(&module.path));
        archive.put(&file, area, Node::File { mode: 0o644, bytes })?;
    }
    let names: BTreeSet<String> = packed.into_keys().collect();
    for (file, contents) in [
        ("modules.dep", index.dep_text(&names)),
        ("modules.alias", index.alias_text(&names)),
        ("modules.softdep", index.softdep_text(&names)),
        ("modules.builtin", index.builtin_text().to_owned()),
        ("modules.builtin.modinfo", index.builtin_info_text()),
    ] {
        archive.put(&format!("{place}/{file}"), "module indexes", text(contents))?;
    }
    found.no_firmware = add_firmware(archive, options, firmware)?;
    Ok(found)
}

/// The modules of the table, of `--mkfs` and of `--module`, each with the group it counts to.
fn roots(
    index: &Index,
    options: &Options,
    found: &mut Found,
) -> Result<Vec<(String, &'static str)>, PackError> {
    let by_mkfs = table::BY_MKFS
        .iter()
        .filter(|wanted| options.mkfs.iter().any(|name| name == wanted.module));
    let mut roots = Vec::new();
    for wanted in table::MODULES.iter().chain(by_mkfs) {
        let Wanted {
            module,
            area,
            reason,
            required,
        } = *wanted;
        match index.resolve(module) {
            Resolved::Modules(names) => roots.extend(names.into_iter().map(|name| (name, area))),
            Resolved::Builtin => found.builtin.push(module),
            Resolved::Missing if required => return Err(no_module(options, module, reason)),
            Resolved::Missing => found.absent.push(module),
        }
    }
    for module in &options.modules {
        match index.resolve(module) {
            Resolved::Modules(names) => {
                roots.extend(names.into_iter().map(|name| (name, "modules: asked for")))
            }
            Resolved::Builtin => {}
            Resolved::Missing => return Err(no_module(options, module, "asked for by --module")),
        }
    }
    Ok(roots)
}

fn no_module(options: &Options, module: &str, reason: &str) -> PackError {
    PackError::NoModule {
        module: module.to_owned(),
        kernel: options.kernel.clone(),
        reason: reason.to_owned(),
        remedy: "check its name, or run depmod again, or take a kernel that has it",
    }
}

/// Adds the firmware that the tree has, decompressed; answers what it lacks.
fn add_firmware(
    archive: &mut Archive,
    options: &Options,
    wanted: BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, PackError> {
    let mut lacking = Vec::new();
    for (file, module) in wanted {
        let Some(path) = find_firmware(options, &file) else {
            lacking.push((module, file));
            continue;
        };
        let bytes = compressed::read(&path, "firmware")?;
        archive.put(
            &format!("usr/lib/firmware/{file}"),
            "firmware",
            Node::File { mode: 0o644, bytes },
        )?;
    }
    Ok(lacking)
}

/// Where the kernel would look, in its order (`fw_path` in drivers/base/firmware_loader/main.c). Symbolic links may
/// point anywhere inside the tree, never out of it: firmware of the build host would go unnoticed.
fn find_firmware(options: &Options, file: &str) -> Option<PathBuf> {
    let root = std::fs::canonicalize(&options.tree).ok()?;
    let base = root.join("usr/lib/firmware");
    let kernel = &options.kernel;
    [
        base.join("updates").join(kernel),
        base.join("updates"),
        base.join(kernel),
        base,
    ]
    .iter()
    .flat_map(|dir| {
        ["", compressed::ENDINGS[0], compressed::ENDINGS[1]].map(|e| dir.join(format!("{file}{e}")))
    })
    .filter_map(|path| std::fs::canonicalize(path).ok())
    .find(|path| path.is_file() && path.starts_with(&root))
}

/// Adds a file, link or directory with all that is in it.
fn add(archive: &mut Archive, source: &Path, place: &str) -> Result<(), PackError> {
    const GROUP: &str = "added";
    let read = |error| PackError::Read {
        path: source.to_owned(),
        purpose: "asked for by --add",
        remedy: "check that it exists and can be read",
        source: error,
    };
    let meta = std::fs::symlink_metadata(source).map_err(read)?;
    let kind = meta.file_type();
    if kind.is_symlink() {
        let target = std::fs::read_link(source).map_err(read)?;
        archive.put(place, GROUP, Node::Symlink(target.display().to_string()))
    } else if kind.is_file() {
        let bytes = std::fs::read(source).map_err(read)?;
        archive.put(
            place,
            GROUP,
            Node::File {
                mode: meta.permissions().mode(),
                bytes,
            },
        )
    } else if kind.is_dir() {
        archive.put(place, GROUP, Node::Directory)?;
        for entry in std::fs::read_dir(source).map_err(read)? {
            let entry = entry.map_err(read)?;
            add(
                archive,
                &entry.path(),
                &format!("{place}/{}", entry.file_name().display()),
            )?;
        }
        Ok(())
    } else {
        Err(PackError::Special {
            path: source.to_owned(),
        })
    }
}
