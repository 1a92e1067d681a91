//! The swap header: one page, version 1, as the kernel's `union swap_header` has it.

use std::fs::OpenOptions;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::FormatError;
use crate::guid::Guid;

/// Pages are 4 KiB on every machine this runs on.
const PAGE: u64 = 4096;
/// Fewer pages are refused by the kernel's users too.
const PAGES_MIN: u64 = 10;

/// Writes the header and makes it durable.
pub(super) fn make(device: &Path, label: &str, uuid: Guid) -> Result<(), FormatError> {
    let fail = |source: io::Error| FormatError::Swap {
        device: device.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .map_err(fail)?;
    let len = file.seek(SeekFrom::End(0)).map_err(fail)?;
    if len / PAGE < PAGES_MIN {
        return Err(FormatError::TooSmall {
            device: device.to_owned(),
            format: "swap",
            len,
            need: PAGES_MIN * PAGE,
        });
    }
    file.write_all_at(&header(len, label, uuid), 0)
        .map_err(fail)?;
    file.sync_all().map_err(fail)
}

fn header(len: u64, label: &str, uuid: Guid) -> [u8; 4096] {
    let last_page = u32::try_from(len / PAGE - 1).unwrap_or(u32::MAX - 1);
    let mut page = [0; 4096];
    page[1024..1028].copy_from_slice(&1u32.to_le_bytes());
    page[1028..1032].copy_from_slice(&last_page.to_le_bytes());
    page[1036..1052].copy_from_slice(uuid.bytes());
    page[1052..1052 + label.len().min(16)]
        .copy_from_slice(&label.as_bytes()[..label.len().min(16)]);
    page[4086..].copy_from_slice(b"SWAPSPACE2");
    page
}
