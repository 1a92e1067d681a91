//! What can go wrong while packing. Every variant names the file and the next step; causes are sources.

use std::path::PathBuf;

/// Why no initrd was made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The command line is wrong.
    #[error("{what}; see `initrd-agent pack --help`")]
    Usage {
        /// What is wrong with it.
        what: String,
    },
    /// A file could not be read.
    #[error("cannot read {} ({purpose}); {remedy}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What it is for.
        purpose: &'static str,
        /// What the person can do.
        remedy: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The kernel has no module indexes.
    #[error("{} is missing (kernel packages ship none); run `depmod -b {} {kernel}` and pack again", path.display(), tree.display())]
    NoModuleIndex {
        /// The index looked for.
        path: PathBuf,
        /// The OS tree.
        tree: PathBuf,
        /// The kernel version.
        kernel: String,
    },
    /// The tree has no modules of this kernel.
    #[error("{} has no kernel {kernel} (it has: {}); install its package into the tree or give another --kernel", path.display(), list(found))]
    NoKernel {
        /// `TREE/usr/lib/modules`.
        path: PathBuf,
        /// The kernel version asked for.
        kernel: String,
        /// The versions there are.
        found: Vec<String>,
    },
    /// A module without which nothing boots, or that was asked for, does not exist.
    #[error(
        "kernel {kernel} has no module `{module}`, neither in modules.dep nor built in ({reason}); {remedy}"
    )]
    NoModule {
        /// The module.
        module: String,
        /// The kernel version.
        kernel: String,
        /// Why it is wanted.
        reason: String,
        /// What the person can do.
        remedy: &'static str,
    },
    /// A compressed file is broken or compressed in a way we do not know.
    #[error("cannot decompress {}; reinstall the package it belongs to", path.display())]
    Decompress {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A module is not a 64-bit little-endian ELF file with a readable `.modinfo`.
    #[error("{} is not a kernel module: {what}; reinstall the kernel package", path.display())]
    BadModule {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A program for the initrd needs a dynamic linker that the initrd does not have.
    #[error("{} is not a static x86_64 program: {what}; take the one that `cargo xtask build` leaves in target/dist", path.display())]
    NotStatic {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// `agent.toml` is wrong.
    #[error("{} is refused; correct it and pack again", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: crate::config::ConfigError,
    },
    /// `agent.toml` has keys this version does not know.
    #[error("{} has unknown keys: {}; remove them, or pack with the version that knows them", path.display(), list(keys))]
    ConfigKeys {
        /// The file.
        path: PathBuf,
        /// The keys.
        keys: Vec<String>,
    },
    /// Two sources want the same place in the initrd.
    #[error("/{place} would be in the initrd twice, as {first} and as {second}; drop one --add")]
    Twice {
        /// The place.
        place: String,
        /// The group that had it first.
        first: &'static str,
        /// The group that wanted it too.
        second: &'static str,
    },
    /// A file is neither regular, nor a directory, nor a symbolic link.
    #[error("{} is a device, socket or pipe; only files, directories and symbolic links can be added", path.display())]
    Special {
        /// The file.
        path: PathBuf,
    },
    /// A file is larger than newc can express.
    #[error("/{place} has {bytes} bytes; a newc cpio holds files up to 4 GiB: leave it out")]
    TooLarge {
        /// The place in the initrd.
        place: String,
        /// Its size.
        bytes: usize,
    },
    /// The result could not be written.
    #[error("cannot write {}; check that the directory exists and has room", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The report could not be printed.
    #[error("cannot print the report")]
    Print(#[source] std::io::Error),
}

impl PackError {
    /// The exit code of the tool: 2 for usage, 1 for all else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Usage { .. }) {
            2
        } else {
            1
        }
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        "nothing".to_owned()
    } else {
        items.join(", ")
    }
}
