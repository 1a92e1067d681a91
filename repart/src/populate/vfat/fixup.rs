//! What is put right in a FAT32 after it was filled.
//!
//! The crate `fatfs` 0.3.6 gives `.` and `..` long names, and lets the `..` of a directory in the root name the root's
//! cluster, where FAT wants a zero (fsck.vfat complains of both); mkfs.vfat 4.2 dates the label by the clock, whatever `SOURCE_DATE_EPOCH` says.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use fatfs::DateTime;

const ENTRY: usize = 32;
const VOLUME: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
/// All four of read-only, hidden, system and volume: a part of a long name.
const LONG_NAME: u8 = 0x0f;
/// Entries of this value and above end a chain.
const LAST: u32 = 0x0fff_fff8;

/// The numbers of the boot sector that say where clusters are.
struct Layout {
    cluster: u64,
    fat: u64,
    data: u64,
    root: u32,
}

impl Layout {
    fn read(image: &File) -> io::Result<Self> {
        let mut boot = [0; 64];
        image.read_exact_at(&mut boot, 0)?;
        let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let double =
            |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        let sector = word(11);
        let fat = word(14) * sector;
        let fats = u64::from(boot[16]) * u64::from(double(36)) * sector;
        let cluster = u64::from(boot[13]) * sector;
        if cluster == 0 || word(22) != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a FAT32"));
        }
        Ok(Self {
            cluster,
            fat,
            data: fat + fats,
            root: double(44),
        })
    }

    fn offset(&self, cluster: u32) -> u64 {
        self.data + u64::from(cluster.saturating_sub(2)) * self.cluster
    }

    fn next(&self, image: &File, cluster: u32) -> io::Result<Option<u32>> {
        let mut entry = [0; 4];
        image.read_exact_at(&mut entry, self.fat + u64::from(cluster) * 4)?;
        let next = u32::from_le_bytes(entry) & 0x0fff_ffff;
        Ok((2..LAST).contains(&next).then_some(next))
    }
}

/// Goes through every directory once.
pub(super) fn fix(image: &File, label_time: Option<DateTime>) -> io::Result<()> {
    let layout = Layout::read(image)?;
    let mut waiting = vec![layout.root];
    while let Some(directory) = waiting.pop() {
        let in_root = directory == layout.root;
        let mut at = Some(directory);
        while let Some(cluster) = at {
            let size = usize::try_from(layout.cluster).map_err(io::Error::other)?;
            let mut entries = vec![0; size];
            image.read_exact_at(&mut entries, layout.offset(cluster))?;
            for (index, entry) in entries.chunks_exact_mut(ENTRY).enumerate() {
                let attributes = entry[11];
                // Free, deleted, the directory itself or its parent, a part of a long name.
                if matches!(entry[0], 0 | 0xe5 | b'.') || attributes & LONG_NAME == LONG_NAME {
                    continue;
                }
                if attributes & DIRECTORY != 0 {
                    let high = u32::from(u16::from_le_bytes([entry[20], entry[21]]));
                    let low = u32::from(u16::from_le_bytes([entry[26], entry[27]]));
                    let inner = high << 16 | low;
                    fix_first(image, layout.offset(inner), in_root)?;
                    waiting.push(inner);
                } else if attributes & VOLUME != 0
                    && let Some(time) = &label_time
                {
                    set_times(entry, time);
                    let offset = layout.offset(cluster) + u64::try_from(index * ENTRY).unwrap_or(0);
                    image.write_all_at(entry, offset)?;
                }
            }
            at = layout.next(image, cluster)?;
        }
    }
    Ok(())
}

/// The first entries of a directory: `.`, then `..`, neither with a long name.
fn fix_first(image: &File, directory: u64, in_root: bool) -> io::Result<()> {
    let mut first = [0; 4 * ENTRY];
    image.read_exact_at(&mut first, directory)?;
    let is = |at: usize, name: &[u8; 11], entries: &[u8]| entries[at * ENTRY..].starts_with(name);
    if is(1, b".          ", &first) && is(3, b"..         ", &first) {
        first.copy_within(ENTRY..2 * ENTRY, 0);
        first.copy_within(3 * ENTRY..4 * ENTRY, ENTRY);
        for spare in [2, 3] {
            first[spare * ENTRY] = 0xe5;
        }
    }
    if in_root && is(1, b"..         ", &first) {
        first[ENTRY + 20..ENTRY + 22].fill(0);
        first[ENTRY + 26..ENTRY + 28].fill(0);
    }
    image.write_all_at(&first, directory)
}

fn set_times(entry: &mut [u8], time: &DateTime) {
    let day = (time.date.year.saturating_sub(1980) << 9 | time.date.month << 5 | time.date.day)
        .to_le_bytes();
    let clock = (time.time.hour << 11 | time.time.min << 5 | (time.time.sec / 2)).to_le_bytes();
    entry[13] = 0;
    entry[14..16].copy_from_slice(&clock);
    entry[16..18].copy_from_slice(&day);
    entry[18..20].copy_from_slice(&day);
    entry[22..24].copy_from_slice(&clock);
    entry[24..26].copy_from_slice(&day);
}
