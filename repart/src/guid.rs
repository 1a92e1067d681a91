//! GUIDs as GPT stores them and as people read them, and the derivation of new ones (spec 3.2).
//!
//! Invariant: a [`Guid`] holds its bytes in textual (big-endian) order everywhere; the mixed order
//! of the disk exists only in [`Guid::from_disk`] and [`Guid::to_disk`].

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// A 128-bit identifier, bytes in textual order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Guid([u8; 16]);

impl Guid {
    /// All zero: "unused" in a GPT.
    pub const NULL: Self = Self([0; 16]);

    /// From the 16 bytes in textual order.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From the number whose hexadecimal digits are the textual form.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(value.to_be_bytes())
    }

    /// The 16 bytes in textual order.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// True for [`Guid::NULL`].
    #[must_use]
    pub fn is_null(&self) -> bool {
        *self == Self::NULL
    }

    /// Parses 32 hexadecimal digits, with or without the four dashes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let dashed = text.len() == 36;
        if !(dashed || text.len() == 32) || !text.is_ascii() {
            return None;
        }
        let mut value: u128 = 0;
        for (at, byte) in text.bytes().enumerate() {
            if dashed && matches!(at, 8 | 13 | 18 | 23) {
                if byte != b'-' {
                    return None;
                }
                continue;
            }
            let digit = char::from(byte).to_digit(16)?;
            value = value << 4 | u128::from(digit);
        }
        Some(Self::from_u128(value))
    }

    /// From the mixed-endian form of the disk.
    #[must_use]
    pub fn from_disk(mut bytes: [u8; 16]) -> Self {
        swap_fields(&mut bytes);
        Self(bytes)
    }

    /// To the mixed-endian form of the disk.
    #[must_use]
    pub fn to_disk(self) -> [u8; 16] {
        let mut bytes = self.0;
        swap_fields(&mut bytes);
        bytes
    }

    /// HMAC-SHA256 keyed by `self` over `message`, cut to 16 bytes and marked as version 4.
    #[must_use]
    pub fn derive(&self, message: &[u8]) -> Self {
        let digest = hmac_sha256(&self.0, message);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

/// The first three fields are little-endian on disk.
fn swap_fields(bytes: &mut [u8; 16]) {
    bytes[0..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
}

fn hmac_sha256(key: &[u8; 16], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length, so the error case cannot occur; zero bytes keep this total.
    Hmac::<Sha256>::new_from_slice(key).map_or([0; 32], |mut mac| {
        mac.update(message);
        mac.finalize().into_bytes().into()
    })
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn text_and_disk_order() {
        let guid = Guid::parse("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").unwrap();
        assert_eq!(guid.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
        assert_eq!(
            guid.to_disk()[..8],
            [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]
        );
        assert_eq!(Guid::from_disk(guid.to_disk()), guid);
        assert_eq!(Guid::parse("C12A7328F81F11D2BA4B00A0C93EC93B"), Some(guid));
        for bad in [
            "",
            "c12a7328",
            "c12a7328-f81f-11d2-ba4b+00a0c93ec93b",
            "+12a7328f81f11d2ba4b00a0c93ec93b",
        ] {
            assert_eq!(Guid::parse(bad), None, "{bad}");
        }
    }

    /// The vectors of spec 3.2, made by systemd-repart.
    #[test]
    fn derivation_vectors() {
        let seed = Guid::parse("750b6cd5-c4ae-4012-a15e-7be3c29e6a47").unwrap();
        assert_eq!(
            seed.derive(b"disk-uuid").to_string(),
            "1d2ce291-7cce-4f7d-bc83-fdb49ad74ebd"
        );
        let root = Guid::parse("4f68bce3-e8cd-4db1-96e7-fbcaf984b709").unwrap();
        let first = seed.derive(root.bytes());
        assert_eq!(first.to_string(), "60f33797-1d71-4dcb-aa6f-20564f036cd0");
        let mut second = root.bytes().to_vec();
        second.extend_from_slice(&1u64.to_le_bytes());
        assert_eq!(
            seed.derive(&second).to_string(),
            "73a4ccd2-eaf5-44da-a366-f99188210fdc"
        );
        assert_eq!(
            first.derive(b"file-system-uuid").to_string(),
            "70e624a3-caca-4b82-b656-2e7168b70ff1"
        );
        assert_eq!(
            first.derive(b"luks-uuid").to_string(),
            "b4d1501b-4385-4f47-b089-298643f4fd9a"
        );
    }
}
