//! Reading files that may be compressed (`.ko.xz`, `.ko.zst`, firmware `.xz`, `.zst`).
//!
//! xz is decoded by lzma-rust2 (pure Rust, checks CRC32/CRC64, kept up; lzma-rs is dormant, liblzma is C). zstd is the C
//! library, which we need as the encoder anyway; the Rust one (ruzstd) only reaches the level of `zstd -1`.

use std::io::Read;
use std::path::Path;

use super::error::PackError;

/// The endings a stored file may have, besides none.
pub const ENDINGS: [&str; 2] = [".xz", ".zst"];

/// The contents of `path`, decompressed by its ending.
///
/// # Errors
/// [`PackError::Read`], [`PackError::Decompress`].
pub fn read(path: &Path, purpose: &'static str) -> Result<Vec<u8>, PackError> {
    let bytes = std::fs::read(path).map_err(|source| PackError::Read {
        path: path.to_owned(),
        purpose,
        remedy: "reinstall the package it belongs to, or run depmod again",
        source,
    })?;
    let bad = |source| PackError::Decompress {
        path: path.to_owned(),
        source,
    };
    match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => {
            let mut out = Vec::with_capacity(bytes.len().saturating_mul(4));
            lzma_rust2::XzReader::new(bytes.as_slice(), true)
                .read_to_end(&mut out)
                .map_err(bad)?;
            Ok(out)
        }
        Some("zst") => zstd::decode_all(bytes.as_slice()).map_err(bad),
        _ => Ok(bytes),
    }
}

/// A file name without the ending of its compression.
#[must_use]
pub fn plain_name(name: &str) -> &str {
    ENDINGS
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(name)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_xz_and_zstd_wrote_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("m.ko");
        let text = b"some module ".repeat(5000);
        std::fs::write(&plain, &text).unwrap();
        for (tool, options, ending) in [
            ("xz", ["-k", "--check=crc32"], "xz"),
            ("xz", ["-kf", "--check=crc64"], "xz"),
            ("zstd", ["-q", "-k"], "zst"),
        ] {
            assert!(
                Command::new(tool)
                    .args(options)
                    .arg(&plain)
                    .status()
                    .unwrap()
                    .success(),
                "{tool}"
            );
            let packed = dir.path().join(format!("m.ko.{ending}"));
            assert_eq!(read(&packed, "test").unwrap(), text);
            let mut broken = std::fs::read(&packed).unwrap();
            let middle = broken.len() / 2;
            broken[middle] ^= 0x55;
            std::fs::write(&packed, broken).unwrap();
            let error = read(&packed, "test").unwrap_err();
            assert!(matches!(error, PackError::Decompress { .. }), "{error}");
        }
        assert_eq!(plain_name("a.ko.zst"), "a.ko");
        assert_eq!(plain_name("a.ko"), "a.ko");
    }
}
