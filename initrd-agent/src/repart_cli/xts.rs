//! AES-256 in XTS mode over whole sectors (IEEE 1619), `plain64` IVs as dm-crypt has them.
//!
//! All blocks of a sector are given to the cipher at once, so that the processor's AES units work side by side.

use aes::Aes256;
use aes::cipher::{BlockEncrypt as _, KeyInit as _};
use zeroize::Zeroizing;

type Block = aes::Block;

const BLOCK: usize = 16;

/// Bytes of the two keys together.
pub(super) const KEY: usize = 64;

pub(super) struct Xts {
    data: Aes256,
    tweak: Aes256,
}

impl Xts {
    pub(super) fn new(key: &Zeroizing<[u8; KEY]>) -> Self {
        let (data, tweak) = key.split_at(KEY / 2);
        Self {
            data: Aes256::new(data.into()),
            tweak: Aes256::new(tweak.into()),
        }
    }

    /// Encrypts whole sectors of `size` bytes; the first has the number `sector`, in units of 512 bytes. A rest shorter
    /// than a sector cannot come from a partition and is left alone.
    pub(super) fn encrypt(&self, data: &mut [u8], size: usize, sector: u64) {
        let step = u64::try_from(size / 512).unwrap_or(1);
        let mut blocks = Vec::with_capacity(size / BLOCK);
        let mut number = sector;
        for bytes in data.chunks_exact_mut(size) {
            self.sector(bytes, number, &mut blocks);
            number = number.wrapping_add(step);
        }
    }

    fn sector(&self, bytes: &mut [u8], number: u64, blocks: &mut Vec<Block>) {
        let mut first = Block::default();
        first[..8].copy_from_slice(&number.to_le_bytes());
        self.tweak.encrypt_block(&mut first);
        let start = u128::from_le_bytes(first.into());
        blocks.clear();
        let mut tweak = start;
        for block in bytes.chunks_exact(BLOCK) {
            let mut plain = [0; BLOCK];
            plain.copy_from_slice(block);
            blocks.push((u128::from_le_bytes(plain) ^ tweak).to_le_bytes().into());
            tweak = double(tweak);
        }
        self.data.encrypt_blocks(blocks);
        tweak = start;
        for (block, done) in bytes.chunks_exact_mut(BLOCK).zip(blocks.iter()) {
            let cipher = u128::from_le_bytes((*done).into()) ^ tweak;
            block.copy_from_slice(&cipher.to_le_bytes());
            tweak = double(tweak);
        }
    }
}

/// Times x in GF(2^128), modulo x^128 + x^7 + x^2 + x + 1.
fn double(value: u128) -> u128 {
    let carry = if value >> 127 == 1 { 0x87 } else { 0 };
    value << 1 ^ carry
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    /// IEEE 1619-2007, annex B, vector 10: XTS-AES-256, 512 bytes counting up, data unit 0xff.
    #[test]
    fn the_standards_vector() {
        let key = "2718281828459045235360287471352662497757247093699959574966967627\
                   3141592653589793238462643383279502884197169399375105820974944592";
        let mut bytes = Zeroizing::new([0; KEY]);
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&key[at * 2..][..2], 16).unwrap();
        }
        let mut data: Vec<u8> = (0..512_u16).map(|at| at.to_le_bytes()[0]).collect();
        Xts::new(&bytes).encrypt(&mut data, 512, 0xff);
        let hex: String = data[..32].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"
        );
        let end: String = data[496..].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(end, "c4f36ffda9fcea70b9c6e693e148c151".to_owned());
    }
}
