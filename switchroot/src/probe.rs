//! What a device carries, by the magic numbers of its superblock. Only the types a machine boots from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// (type, byte offset, magic). Offsets are of the formats' own documents.
const MAGICS: [(&str, u64, &[u8]); 8] = [
    ("squashfs", 0, b"hsqs"),
    ("xfs", 0, b"XFSB"),
    ("erofs", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("f2fs", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    ("swap", 4086, b"SWAPSPACE2"),
    ("vfat", 82, b"FAT32   "),
    ("crypto_LUKS", 0, b"LUKS\xba\xbe"),
];
/// ext2, 3 and 4 share one magic; the feature words tell them apart.
const EXT_MAGIC: (u64, &[u8]) = (1080, &[0x53, 0xef]);

/// The name of what the device at `path` carries, as blkid names it; `None` if it is nothing of ours.
pub fn device(path: &Path) -> io::Result<Option<&'static str>> {
    file(&File::open(path)?)
}

/// The same for an open device or image.
pub fn file(device: &File) -> io::Result<Option<&'static str>> {
    for (name, offset, magic) in MAGICS {
        if has(device, offset, magic)? {
            return Ok(Some(name));
        }
    }
    // Every ext2/3/4 is mounted by the ext4 driver.
    Ok(has(device, EXT_MAGIC.0, EXT_MAGIC.1)?.then_some("ext4"))
}

/// A device too short for the place does not have the magic.
fn has(device: &File, offset: u64, magic: &[u8]) -> io::Result<bool> {
    let mut buffer = [0_u8; 16];
    let Some(buffer) = buffer.get_mut(..magic.len()) else {
        return Ok(false);
    };
    match device.read_exact_at(buffer, offset) {
        Ok(()) => Ok(buffer == magic),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
