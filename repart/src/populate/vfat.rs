//! A tree into a vfat that mkfs.vfat has made; that program takes no files.

mod fixup;

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use fatfs::{Date, DateTime, FileSystem, FsOptions, Time};

use super::PopulateError;

type Fat<'a> = fatfs::Dir<'a, File>;

/// Copies directories and files of the tree, if there is one; answers what vfat cannot hold and was left out.
///
/// # Errors
/// A file that cannot be read, or does not fit.
pub fn fill(
    tree: Option<&Path>,
    image: &File,
    epoch: Option<i64>,
) -> Result<Vec<String>, PopulateError> {
    let failed = |source| PopulateError {
        what: "cannot finish the vfat for",
        path: tree.unwrap_or(Path::new("no files")).to_owned(),
        source,
    };
    let notes = match tree {
        Some(tree) => copy_tree(tree, image.try_clone().map_err(failed)?)?,
        None => Vec::new(),
    };
    let label_time = epoch.map(|at| date_time(u64::try_from(at).unwrap_or(0)));
    fixup::fix(image, label_time).map_err(failed)?;
    Ok(notes)
}

fn copy_tree(tree: &Path, image: File) -> Result<Vec<String>, PopulateError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| PopulateError {
            what: "cannot copy into the vfat:",
            path,
            source,
        }
    };
    let file_system =
        FileSystem::new(image, FsOptions::new().update_accessed_date(false)).map_err(at(tree))?;
    let mut notes = Vec::new();
    directory(tree, &file_system.root_dir(), &mut notes)?;
    file_system.unmount().map_err(at(tree))?;
    Ok(notes)
}

fn directory(path: &Path, into: &Fat<'_>, notes: &mut Vec<String>) -> Result<(), PopulateError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| PopulateError {
            what: "cannot copy into the vfat:",
            path,
            source,
        }
    };
    let mut entries = fs::read_dir(path)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(at(path))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let own = entry.path();
        let raw = entry.file_name();
        let name = std::str::from_utf8(raw.as_bytes())
            .map_err(|error| at(&own)(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let metadata = own.symlink_metadata().map_err(at(&own))?;
        if metadata.is_dir() {
            let inner = into.create_dir(name).map_err(at(&own))?;
            directory(&own, &inner, notes)?;
        } else if metadata.is_file() {
            copy(&own, name, into).map_err(at(&own))?;
        } else {
            notes.push(format!(
                "{name} is no file and no directory: left out of the vfat"
            ));
        }
    }
    Ok(())
}

fn copy(path: &Path, name: &str, into: &Fat<'_>) -> io::Result<()> {
    let mut source = File::open(path)?;
    let modified = source.metadata()?.modified()?;
    let mut target = into.create_file(name)?;
    target.truncate()?;
    io::copy(&mut source, &mut target)?;
    let seconds = modified
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let time = date_time(seconds);
    #[expect(
        deprecated,
        reason = "its successor, a time provider, has no time per file"
    )]
    {
        target.set_created(time);
        target.set_modified(time);
        target.set_accessed(time.date);
    }
    io::Write::flush(&mut target)
}

/// UTC, within what FAT can say: 1980 to 2107.
fn date_time(seconds: u64) -> DateTime {
    let days = seconds / 86400;
    // Days since 0000-03-01; eras of 400 years (civil calendar).
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let rest = day - (365 * year + year / 4 - year / 100);
    let month = (5 * rest + 2) / 153;
    let date = rest - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 {
        (month + 3, year + era * 400)
    } else {
        (month - 9, year + era * 400 + 1)
    };
    let small = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    let time = Time {
        hour: small(seconds % 86400 / 3600),
        min: small(seconds % 3600 / 60),
        sec: small(seconds % 60),
        millis: 0,
    };
    if !(1980..=2107).contains(&year) {
        let date = Date {
            year: 1980,
            month: 1,
            day: 1,
        };
        return DateTime { date, time };
    }
    DateTime {
        date: Date {
            year: small(year),
            month: small(month),
            day: small(date),
        },
        time,
    }
}

#[cfg(test)]
mod tests {
    use super::date_time;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let show = |seconds| {
            let at = date_time(seconds);
            let (d, t) = (at.date, at.time);
            format!(
                "{}-{:02}-{:02} {:02}:{:02}:{:02}",
                d.year, d.month, d.day, t.hour, t.min, t.sec
            )
        };
        assert_eq!(show(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(show(1_700_000_000), "2023-11-14 22:13:20");
        assert_eq!(show(4_107_542_399), "2100-02-28 23:59:59");
        assert_eq!(show(0), "1980-01-01 00:00:00");
    }
}
