//! EFI variables as the boot loader and systemd-stub leave them, read below one root directory.
//!
//! Owns: the efivarfs file format (4 attribute bytes, then the value; Documentation/filesystems/efivarfs.rst) and the
//! two vendor GUIDs. They are requests and hints, never secrets, and anyone with the machine in hand can write them.

use std::path::{Path, PathBuf};

/// Vendor GUID of the boot loader interface (systemd-boot(7), systemd-stub(7)).
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Vendor GUID of the UEFI specification's own variables.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// No variable read here is longer; an attacker's longer one is not read to its end.
const LIMIT: u64 = 64 * 1024;

/// The variables of the running machine.
#[derive(Debug, Clone)]
pub struct Variables {
    directory: PathBuf,
}

impl Variables {
    /// Variables below `root` (`sys/firmware/efi/efivars`).
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self {
            directory: root.join("sys/firmware/efi/efivars"),
        }
    }

    fn value(&self, name: &str, vendor: &str) -> Option<Vec<u8>> {
        use std::io::Read;
        let file = std::fs::File::open(self.directory.join(format!("{name}-{vendor}"))).ok()?;
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes).ok()?;
        (bytes.len() >= 4).then(|| bytes.split_off(4))
    }

    fn text(&self, name: &str) -> Option<String> {
        let value = self.value(name, LOADER)?;
        let units: Vec<u16> = value
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .collect();
        let end = units
            .iter()
            .position(|unit| *unit == 0)
            .unwrap_or(units.len());
        String::from_utf16(&units[..end]).ok()
    }

    /// GPT partition UUID of the ESP or XBOOTLDR we were started from, lower case: what the stub saw, else what
    /// the boot loader saw.
    #[must_use]
    pub fn boot_partition(&self) -> Option<String> {
        let text = self
            .text("StubDevicePartUUID")
            .or_else(|| self.text("LoaderDevicePartUUID"))?;
        Some(text.to_ascii_lowercase())
    }

    /// True when systemd-stub measured the UKI's sections into PCR 11.
    #[must_use]
    pub fn measured_uki(&self) -> bool {
        self.text("StubPcrKernelImage").as_deref() == Some("11")
    }

    /// True when the firmware enforces Secure Boot.
    #[must_use]
    pub fn secure_boot(&self) -> bool {
        self.value("SecureBoot", GLOBAL).as_deref() == Some(&[1])
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn write(dir: &Path, file: &str, text: &str) {
        let dir = dir.join("sys/firmware/efi/efivars");
        std::fs::create_dir_all(&dir).unwrap();
        let mut bytes = vec![7, 0, 0, 0];
        bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
        std::fs::write(dir.join(file), bytes).unwrap();
    }

    #[test]
    fn the_stub_beats_the_loader_and_case_is_folded() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::below(dir.path());
        assert_eq!(variables.boot_partition(), None);
        write(
            dir.path(),
            &format!("LoaderDevicePartUUID-{LOADER}"),
            "AAAA\0",
        );
        assert_eq!(variables.boot_partition().unwrap(), "aaaa");
        write(
            dir.path(),
            &format!("StubDevicePartUUID-{LOADER}"),
            "BBBB\0",
        );
        assert_eq!(variables.boot_partition().unwrap(), "bbbb");
    }

    #[test]
    fn measured_means_pcr_11() {
        let dir = tempfile::tempdir().unwrap();
        let variables = Variables::below(dir.path());
        assert!(!variables.measured_uki());
        write(dir.path(), &format!("StubPcrKernelImage-{LOADER}"), "11\0");
        assert!(variables.measured_uki());
    }

    #[test]
    fn short_and_odd_files_are_no_values() {
        let dir = tempfile::tempdir().unwrap();
        let vars = dir.path().join("sys/firmware/efi/efivars");
        std::fs::create_dir_all(&vars).unwrap();
        std::fs::write(vars.join(format!("StubDevicePartUUID-{LOADER}")), [7, 0, 0]).unwrap();
        assert_eq!(Variables::below(dir.path()).boot_partition(), None);
    }
}
