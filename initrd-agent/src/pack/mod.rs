//! `initrd-agent pack`: makes the initrd out of our init, mkfs programs and the modules of an OS tree.
//!
//! Invariant: the same inputs give the same bytes, and nothing is written unless everything was found (the output
//! appears by rename). Interface: CONTRACT section 1. This code is linked into the tool only, never into `init`.

mod args;
mod compressed;
mod contents;
mod cpio;
mod elf;
mod error;
mod modules;
mod report;
mod table;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

pub use args::{Options, Request};
pub use error::PackError;
pub use report::Report;

/// Runs `initrd-agent pack ARGS` and prints the report to `out`.
///
/// # Errors
/// [`PackError`]; its `exit_code` is the tool's.
pub fn run(args: &[OsString], out: &mut dyn Write) -> Result<(), PackError> {
    let program =
        std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/bin/initrd-agent"));
    match args::parse(args, program.parent().unwrap_or_else(|| Path::new("/")))? {
        Request::Help => out
            .write_all(args::HELP.as_bytes())
            .map_err(PackError::Print),
        Request::Pack(options) => write!(out, "{}", pack(&options)?).map_err(PackError::Print),
    }
}

/// Makes the initrd that `options` describe.
///
/// # Errors
/// [`PackError`]; the output is then as it was before.
pub fn pack(options: &Options) -> Result<Report, PackError> {
    let (archive, found) = contents::collect(options)?;
    let mut report = Report::of(&archive, options.output.clone(), options.size_report);
    let cpio = archive.to_newc()?;
    drop(archive);
    let compressed = compress(&cpio, options.level).map_err(|source| PackError::Write {
        path: options.output.clone(),
        source,
    })?;
    write_whole(&options.output, &compressed)?;
    report.uncompressed = cpio.len();
    report.compressed = compressed.len();
    report.builtin = found.builtin;
    report.absent = found.absent;
    report.no_firmware = found.no_firmware;
    Ok(report)
}

/// One zstd frame with its length and a checksum. Two workers, always two: the number of jobs, not of workers, decides
/// the bytes, but a frame made without workers differs from one made with them.
fn compress(bytes: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), level)?;
    encoder.include_checksum(true)?;
    encoder.multithread(2)?;
    encoder.set_pledged_src_size(u64::try_from(bytes.len()).ok())?;
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), PackError> {
    let error = |source| PackError::Write {
        path: path.to_owned(),
        source,
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path));
    written.map_err(|source| {
        // The first error is the one to tell; a leftover part file is not.
        drop(std::fs::remove_file(&part));
        error(source)
    })
}
