//! dm-verity: a partition whose every block is proven against one digest (spec trust 4).
//!
//! The root digest comes from the signed command line and is the only thing trusted. Salt, sizes and counts come from
//! the unauthenticated superblock: a wrong value only makes the tree not match, as long as the algorithm is forced.
//! A wrong digest is found in user space, along the path to the first block, before the kernel sees the table: with
//! `panic_on_corruption` the kernel would end the machine without a word.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use libcryptsetup_rs::consts::flags::{CryptActivate, CryptVerity};
use libcryptsetup_rs::consts::vals::EncryptionFormat;
use libcryptsetup_rs::{CryptDevice, CryptInit, CryptParamsVerity, CryptParamsVerityRef};
use sha2::{Digest as _, Sha256};

use crate::crypt::{CryptError, call};
use crate::mapping::{Mapping, MappingError};

/// What the kernel does when a block does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCorruption {
    /// Reboot.
    Restart,
    /// Kernel panic (and what the kernel's `panic=` says).
    Panic,
}

/// What to map.
#[derive(Debug)]
pub struct Request<'a> {
    /// Device-mapper name: `usr` or `root`.
    pub name: &'a str,
    /// The data partition.
    pub data: &'a Path,
    /// The hash partition, with a superblock at its beginning.
    pub hash: &'a Path,
    /// The trusted digest.
    pub root_hash: [u8; 32],
    /// On a block that does not match.
    pub on_corruption: OnCorruption,
    /// PKCS#7 signature of the root digest for the kernel's keyrings. If one is given it must be accepted.
    pub signature: Option<Vec<u8>>,
}

/// The volume was not mapped.
#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    /// A partition is not there or cannot be read.
    #[error("cannot read {device}")]
    Device {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no verity superblock.
    #[error("no readable verity superblock on {device}")]
    Superblock {
        /// The hash partition.
        device: PathBuf,
        /// Why.
        source: CryptError,
    },
    /// A superblock of a kind that is not accepted, or one that cannot be true.
    #[error("unacceptable verity superblock on {device}: {reason}")]
    Unacceptable {
        /// The hash partition.
        device: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The data is not what the digest promises.
    #[error("{device} does not match the root hash: {what}")]
    WrongHash {
        /// The partition with the first difference.
        device: PathBuf,
        /// Where they part.
        what: &'static str,
    },
    /// The kernel refused the table.
    #[error("cannot map {name}")]
    Activate {
        /// Device-mapper name.
        name: String,
        /// Why.
        source: CryptError,
    },
    /// The mapping was made but cannot be used.
    #[error("{name} was mapped and removed again: its first block cannot be read")]
    FirstRead {
        /// Device-mapper name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// No device node.
    #[error("{name} was mapped")]
    Node {
        /// Device-mapper name.
        name: String,
        /// Why.
        source: MappingError,
    },
}

/// Checks and maps; the mapping is read-only.
///
/// # Errors
/// [`VerityError`]; nothing stays mapped.
pub fn open(request: &Request<'_>) -> Result<Mapping, VerityError> {
    let mut device = prove(request)?;
    let name = request.name;
    let flags = CryptActivate::READONLY
        | match request.on_corruption {
            OnCorruption::Restart => CryptActivate::RESTART_ON_CORRUPTION,
            OnCorruption::Panic => CryptActivate::PANIC_ON_CORRUPTION,
        };
    call("activate dm-verity", || match &request.signature {
        Some(signature) => device.activate_handle().activate_by_signed_key(
            Some(name),
            Some(&request.root_hash),
            Some(signature),
            flags,
        ),
        None => device.activate_handle().activate_by_volume_key(
            Some(name),
            Some(&request.root_hash),
            flags,
        ),
    })
    .map_err(|source| VerityError::Activate {
        name: name.to_owned(),
        source,
    })?;
    usable(name).inspect_err(|_| drop(crate::mapping::close(name)))
}

/// Everything up to the activation: superblock, sizes, and the path from the root digest to the first block.
///
/// # Errors
/// [`VerityError`].
pub fn check(request: &Request<'_>) -> Result<(), VerityError> {
    prove(request).map(drop)
}

fn prove(request: &Request<'_>) -> Result<CryptDevice, VerityError> {
    let (data, data_size) = open_read(request.data)?;
    let (hash, _) = open_read(request.hash)?;
    let superblock = |source| VerityError::Superblock {
        device: request.hash.to_owned(),
        source,
    };
    let mut device =
        call("open the hash partition", || CryptInit::init(request.hash)).map_err(superblock)?;
    call("load the verity superblock", || {
        device
            .context_handle()
            .load::<CryptParamsVerityRef<'_>>(Some(EncryptionFormat::Verity), None)
    })
    .map_err(superblock)?;
    call("set the data partition", || {
        device.set_data_device(request.data)
    })
    .map_err(superblock)?;
    // What libcryptsetup will activate, not what a second read of the partition would say.
    let info = call("read the verity parameters", || {
        device.status_handle().get_verity_info()
    })
    .map_err(superblock)?;
    let tree = Tree::of(&info, data_size).map_err(|reason| VerityError::Unacceptable {
        device: request.hash.to_owned(),
        reason,
    })?;
    tree.prove_first_block(request, &data, &hash)?;
    Ok(device)
}

/// A device with a node, whose first block can be read.
fn usable(name: &str) -> Result<Mapping, VerityError> {
    let mapping = Mapping::find(name).map_err(|source| VerityError::Node {
        name: name.to_owned(),
        source,
    })?;
    let mut block = [0; 512];
    File::open(&mapping.path)
        .and_then(|device| device.read_exact_at(&mut block, 0))
        .map_err(|source| VerityError::FirstRead {
            name: name.to_owned(),
            source,
        })?;
    Ok(mapping)
}

fn open_read(path: &Path) -> Result<(File, u64), VerityError> {
    let device = |source| VerityError::Device {
        device: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(device)?;
    let size = file.seek(SeekFrom::End(0)).map_err(device)?;
    Ok((file, size))
}

/// The shape of the hash tree.
struct Tree {
    data_block: usize,
    hash_block: usize,
    salt: Vec<u8>,
    /// Byte offset of every level's first block, the root's level first.
    levels: Vec<u64>,
}

impl Tree {
    fn of(info: &CryptParamsVerity, data_size: u64) -> Result<Self, String> {
        if info.hash_name != "sha256" || info.hash_type != 1 {
            return Err(format!(
                "hash {} of type {}, only sha256 of type 1 is accepted",
                info.hash_name, info.hash_type
            ));
        }
        if info.flags.contains(CryptVerity::NO_HEADER) || info.salt.len() > 256 {
            return Err("impossible flags or salt".to_owned());
        }
        let data_block = block_size(info.data_block_size)?;
        let hash_block = block_size(info.hash_block_size)?;
        let fits = info
            .data_size
            .checked_mul(u64::from(info.data_block_size))
            .is_some_and(|bytes| bytes <= data_size);
        if info.data_size == 0 || !fits {
            return Err(format!(
                "{} data blocks do not fit in {data_size} bytes",
                info.data_size
            ));
        }
        let levels = levels(info.data_size, u64::from(info.hash_block_size));
        Ok(Self {
            data_block,
            hash_block,
            salt: info.salt.clone(),
            levels,
        })
    }

    /// Follows the tree from the root digest to data block 0: first entries only.
    fn prove_first_block(
        &self,
        request: &Request<'_>,
        data: &File,
        hash: &File,
    ) -> Result<(), VerityError> {
        let mut expected = request.root_hash;
        for (depth, &offset) in self.levels.iter().enumerate() {
            let block = read(hash, request.hash, offset, self.hash_block)?;
            if self.digest(&block) != expected {
                let what = if depth == 0 {
                    "the root of the hash tree differs"
                } else {
                    "the hash tree is damaged"
                };
                return Err(VerityError::WrongHash {
                    device: request.hash.to_owned(),
                    what,
                });
            }
            expected.copy_from_slice(&block[..32]);
        }
        if self.digest(&read(data, request.data, 0, self.data_block)?) != expected {
            let what = "the first data block differs";
            return Err(VerityError::WrongHash {
                device: request.data.to_owned(),
                what,
            });
        }
        Ok(())
    }

    fn digest(&self, block: &[u8]) -> [u8; 32] {
        Sha256::new()
            .chain_update(&self.salt)
            .chain_update(block)
            .finalize()
            .into()
    }
}

fn block_size(size: u32) -> Result<usize, String> {
    match size {
        512 | 1024 | 2048 | 4096 => usize::try_from(size).map_err(|e| e.to_string()),
        _ => Err(format!("block size {size}")),
    }
}

/// Byte offsets of the levels, root first. The superblock takes the first hash block, then come the levels in this order.
fn levels(data_blocks: u64, hash_block: u64) -> Vec<u64> {
    let fanout = hash_block / 32;
    let mut counts = Vec::new();
    let mut blocks = data_blocks;
    while blocks > 1 {
        blocks = blocks.div_ceil(fanout);
        counts.push(blocks);
    }
    let mut next = hash_block;
    counts
        .iter()
        .rev()
        .map(|count| {
            let offset = next;
            next += count * hash_block;
            offset
        })
        .collect()
}

fn read(file: &File, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, VerityError> {
    let mut block = vec![0; length];
    file.read_exact_at(&mut block, offset)
        .map_err(|source| VerityError::Device {
            device: path.to_owned(),
            source,
        })?;
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::levels;

    #[test]
    fn levels_of_a_tree() {
        assert_eq!(
            levels(1, 4096),
            Vec::<u64>::new(),
            "one block is its own tree"
        );
        assert_eq!(levels(128, 4096), [4096]);
        assert_eq!(levels(129, 4096), [4096, 2 * 4096]);
        assert_eq!(levels(128 * 128 + 1, 4096), [4096, 2 * 4096, 4 * 4096]);
        assert_eq!(
            levels(1 << 54, 512).len(),
            14,
            "the largest device there can be"
        );
    }
}
