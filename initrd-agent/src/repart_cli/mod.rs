//! Encryption for `repart`'s command line: LUKS2 volumes in images and disks, without device-mapper (spec repart 5.6).
//!
//! Invariant: [`Encryption::prepare`] has every passphrase, has sealed what is to be sealed and has tried the seal, before
//! [`Encryption::encrypt`] writes the first byte. The header is libcryptsetup's, made in a temporary file; the payload is
//! encrypted here once, on its way to the disk, so that nothing is encrypted in place and nothing encrypted twice.

mod header;
mod keys;
mod xts;

use repart::cli::{EncryptRequest, Encryption};
use repart::{ContentsError, Disk};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use unlock::tpm::Tcti;

use keys::Keys;
use xts::Xts;

/// Where the data begins: room for two header copies and four key slots.
pub(crate) const HEADER: u64 = 2 << 20;
const BLOCK: usize = 1 << 20;

/// LUKS2 by libcryptsetup, keys from files and the TPM.
#[derive(Default)]
pub struct Luks {
    keys: BTreeMap<u32, Keys>,
    tpm: Option<Tcti>,
}

impl Luks {
    /// With the TPM that is asked for.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With this TPM, whatever `--tpm2-device=` says.
    #[must_use]
    pub fn with_tpm(tpm: Tcti) -> Self {
        Self {
            keys: BTreeMap::new(),
            tpm: Some(tpm),
        }
    }
}

impl Encryption for Luks {
    fn header_size(&self) -> u64 {
        HEADER
    }

    fn prepare(&mut self, request: &EncryptRequest<'_>) -> Result<(), ContentsError> {
        let keys = Keys::find(request, self.tpm.as_ref())?;
        self.keys.insert(request.partition.number, keys);
        Ok(())
    }

    fn encrypt(
        &mut self,
        request: &EncryptRequest<'_>,
        plain: &File,
        range: Range<u64>,
        disk: &mut dyn Disk,
    ) -> Result<(), ContentsError> {
        let keys = self.keys.remove(&request.partition.number);
        let keys = keys.ok_or("the keys of this partition were not prepared")?;
        let header = header::make(request, &keys)?;
        let start = request.partition.offset;
        copy(disk, start, &header, 0..HEADER, |_, _| {})?;
        let cipher = Xts::new(&keys.volume);
        let size = usize::try_from(request.sector_size)?;
        copy(disk, start + HEADER, plain, range, |at, data| {
            // The IV counts 512 bytes whatever the encryption sector is (dm-crypt without iv_large_sectors).
            cipher.encrypt(data, size, at / 512);
        })
    }
}

/// Copies a range to the disk, block by block through `change`, which is told how far into the range it is.
fn copy(
    disk: &mut dyn Disk,
    to: u64,
    from: &File,
    range: Range<u64>,
    change: impl Fn(u64, &mut [u8]),
) -> Result<(), ContentsError> {
    let mut buffer = vec![0; BLOCK];
    let mut at = range.start;
    while at < range.end {
        let left = range.end - at;
        let step = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        let data = &mut buffer[..step];
        from.read_exact_at(data, at)?;
        change(at - range.start, data);
        disk.write_at(to + (at - range.start), data)?;
        at += u64::try_from(step)?;
    }
    Ok(())
}
