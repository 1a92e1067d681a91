//! The running system, read below one root directory: which disks it runs from, where partitions are mounted.
//! Sources: Documentation/ABI/testing/sysfs-block, sysfs-block-dm; proc_pid_mountinfo(5), swaps in proc(5).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The system below `root`.
#[derive(Debug, Clone)]
pub(super) struct Host {
    root: PathBuf,
}

/// A whole disk, by the name sysfs has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockDisk {
    pub(super) name: String,
    /// `MAJOR:MINOR`.
    pub(super) number: String,
}

/// Something mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// Name in sysfs.
    device: String,
    place: String,
}

impl Host {
    pub(super) fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    fn class(&self, name: &str) -> PathBuf {
        self.root
            .join("sys/class/block")
            .join(name.replace('/', "!"))
    }

    fn text(&self, path: &Path) -> Option<String> {
        Some(fs::read_to_string(path).ok()?.trim().to_owned())
    }

    /// The mapped device of this name (`usr`), as sysfs calls it (`dm-0`).
    fn mapped(&self, name: &str) -> Option<String> {
        let entries = fs::read_dir(self.root.join("sys/class/block")).ok()?;
        entries.flatten().find_map(|entry| {
            let found = self.text(&entry.path().join("dm/name"))?;
            (found == name).then(|| entry.file_name().to_string_lossy().into_owned())
        })
    }

    /// The whole disks below a device: itself, the parent of a partition, those of what it is mapped onto.
    fn disks_below(&self, name: &str) -> Vec<BlockDisk> {
        let mut found = Vec::new();
        let (mut waiting, mut seen) = (vec![name.to_owned()], Vec::new());
        while let Some(name) = waiting.pop() {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name.clone());
            let lower: Vec<String> = names(&self.class(&name).join("slaves"));
            if !lower.is_empty() {
                waiting.extend(lower);
            } else if let Some(parent) = self.parent(&name) {
                waiting.push(parent);
            } else if let Some(number) = self.text(&self.class(&name).join("dev")) {
                found.push(BlockDisk { name, number });
            }
        }
        found
    }

    /// The disk of a partition.
    fn parent(&self, name: &str) -> Option<String> {
        let class = self.class(name);
        self.text(&class.join("partition"))?;
        let real = fs::canonicalize(class).ok()?;
        Some(real.parent()?.file_name()?.to_string_lossy().into_owned())
    }

    /// The device with this number.
    fn named(&self, number: &str) -> Option<String> {
        let real = fs::canonicalize(self.root.join("sys/dev/block").join(number)).ok()?;
        Some(real.file_name()?.to_string_lossy().into_owned())
    }

    /// The device with this number is a partition.
    pub(super) fn is_partition(&self, number: &str) -> bool {
        self.named(number)
            .is_some_and(|name| self.parent(&name).is_some())
    }

    fn mounts(&self) -> io::Result<Vec<Mount>> {
        let text = fs::read_to_string(self.root.join("proc/self/mountinfo"))?;
        let mut mounts: Vec<Mount> = text.lines().filter_map(|line| self.mount(line)).collect();
        let swaps = fs::read_to_string(self.root.join("proc/swaps")).unwrap_or_default();
        for line in swaps.lines().skip(1) {
            let device = line
                .split_whitespace()
                .next()
                .and_then(|path| self.by_path(path));
            mounts.extend(device.map(|device| Mount {
                device,
                place: "swap".to_owned(),
            }));
        }
        Ok(mounts)
    }

    fn mount(&self, line: &str) -> Option<Mount> {
        let words: Vec<&str> = line.split(' ').collect();
        let (number, place) = (words.get(2)?, words.get(4)?);
        // btrfs mounts have numbers of no device; what was mounted is named behind the separator.
        let end = words.iter().position(|word| *word == "-")?;
        let device = self
            .named(number)
            .or_else(|| words.get(end + 2).and_then(|path| self.by_path(path)))?;
        Some(Mount {
            device,
            place: (*place).to_owned(),
        })
    }

    fn by_path(&self, path: &str) -> Option<String> {
        let name = path.strip_prefix("/dev/")?;
        match name.strip_prefix("mapper/") {
            Some(mapped) => self.mapped(mapped),
            None => self.class(name).exists().then(|| name.to_owned()),
        }
    }

    /// What the running system has on the disk with this number, if anything.
    pub(super) fn runs_from(&self, number: &str) -> io::Result<Option<String>> {
        let on = |device: &str| {
            self.disks_below(device)
                .iter()
                .any(|disk| disk.number == number)
        };
        if self.mapped("usr").is_some_and(|device| on(&device)) {
            return Ok(Some("/dev/mapper/usr".to_owned()));
        }
        let system = ["/", "/usr", "/home", "/var", "swap"];
        let mounts = self.mounts()?;
        let found = mounts
            .iter()
            .find(|mount| system.contains(&mount.place.as_str()) && on(&mount.device));
        Ok(found.map(|mount| mount.place.clone()))
    }

    /// Where partition `partition` of the disk with this number is mounted.
    pub(super) fn mounted_at(&self, number: &str, partition: u32) -> io::Result<Option<String>> {
        let wanted = partition.to_string();
        let found = self.mounts()?.into_iter().find(|mount| {
            let is = self.text(&self.class(&mount.device).join("partition"));
            is.as_deref() == Some(wanted.as_str())
                && self
                    .disks_below(&mount.device)
                    .iter()
                    .any(|disk| disk.number == number)
        });
        Ok(found.map(|mount| mount.place))
    }

    /// The disk that `/dev/mapper/usr` is on, and the names of the partitions below it.
    pub(super) fn usr_disk(&self) -> Result<(BlockDisk, Vec<String>), String> {
        let usr = self
            .mapped("usr")
            .ok_or("there is no /dev/mapper/usr; say --source")?;
        let slaves = names(&self.class(&usr).join("slaves"));
        match self.disks_below(&usr).as_slice() {
            [one] => Ok((one.clone(), slaves)),
            disks => Err(format!(
                "/dev/mapper/usr is on {} disks; say --source",
                disks.len()
            )),
        }
    }

    /// Number of a partition in its table.
    pub(super) fn partition_number(&self, name: &str) -> Option<u32> {
        self.text(&self.class(name).join("partition"))?.parse().ok()
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use std::os::unix::fs::symlink;

    /// vda with an ESP, data and hash of usr, and a LUKS root; vdb with two partitions.
    fn host() -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("sys/class/block")).unwrap();
        fs::create_dir_all(root.join("sys/dev/block")).unwrap();
        fs::create_dir_all(root.join("proc/self")).unwrap();
        let device = |path: &str, number: &str| {
            let real = root.join("sys/devices").join(path);
            fs::create_dir_all(&real).unwrap();
            fs::write(real.join("dev"), format!("{number}\n")).unwrap();
            let name = real.file_name().unwrap().to_owned();
            symlink(&real, root.join("sys/class/block").join(&name)).unwrap();
            symlink(&real, root.join("sys/dev/block").join(number)).unwrap();
            let digits: String = name
                .to_str()
                .unwrap()
                .chars()
                .filter(char::is_ascii_digit)
                .collect();
            if name.to_str().unwrap().starts_with("vd") && !digits.is_empty() {
                fs::write(real.join("partition"), digits).unwrap();
            }
            real
        };
        for (disk, major) in [("vda", 254), ("vdb", 253)] {
            device(disk, &format!("{major}:0"));
            for part in 1..=4 {
                device(&format!("{disk}/{disk}{part}"), &format!("{major}:{part}"));
            }
        }
        for (dm, name, lower) in [
            ("dm-0", "usr", vec!["vda2", "vda3"]),
            ("dm-1", "root", vec!["vda4"]),
        ] {
            let real = device(&format!("virtual/{dm}"), &format!("252:{}", &dm[3..]));
            fs::create_dir_all(real.join("dm")).unwrap();
            fs::create_dir_all(real.join("slaves")).unwrap();
            fs::write(real.join("dm/name"), format!("{name}\n")).unwrap();
            for lower in lower {
                fs::write(real.join("slaves").join(lower), "").unwrap();
            }
        }
        let mounts = "\
21 1 0:30 / / rw - btrfs /dev/mapper/root rw
22 21 252:0 / /usr ro - erofs /dev/mapper/usr ro
23 21 253:2 / /mnt/windows rw - fuseblk /dev/vdb2 rw
24 21 0:5 / /proc rw - proc proc rw
";
        fs::write(root.join("proc/self/mountinfo"), mounts).unwrap();
        fs::write(
            root.join("proc/swaps"),
            "Filename Type\n/dev/vdb4 partition 1 0 -2\n",
        )
        .unwrap();
        let host = Host::below(root);
        (dir, host)
    }

    #[test]
    fn the_disk_of_usr_is_found_through_its_lower_devices() {
        let (_dir, host) = host();
        let (disk, lower) = host.usr_disk().unwrap();
        assert_eq!((disk.name.as_str(), disk.number.as_str()), ("vda", "254:0"));
        assert_eq!(lower, ["vda2", "vda3"]);
        assert_eq!(host.partition_number("vda3"), Some(3));
        assert!(host.is_partition("254:3") && !host.is_partition("254:0"));
    }

    #[test]
    fn a_disk_in_use_is_told_from_one_with_a_mounted_partition() {
        let (dir, host) = host();
        assert_eq!(
            host.runs_from("254:0").unwrap().as_deref(),
            Some("/dev/mapper/usr")
        );
        assert_eq!(host.runs_from("253:0").unwrap().as_deref(), Some("swap"));
        fs::write(dir.path().join("proc/swaps"), "").unwrap();
        assert_eq!(host.runs_from("253:0").unwrap(), None);
        assert_eq!(
            host.mounted_at("253:0", 2).unwrap().as_deref(),
            Some("/mnt/windows")
        );
        assert_eq!(host.mounted_at("253:0", 1).unwrap(), None);
        assert_eq!(host.mounted_at("254:0", 2).unwrap(), None);
    }

    #[test]
    fn a_root_without_a_device_number_counts_by_what_was_mounted() {
        let (dir, host) = host();
        fs::remove_dir_all(dir.path().join("sys/class/block/dm-0/dm")).unwrap();
        assert_eq!(host.runs_from("254:0").unwrap().as_deref(), Some("/"));
    }
}
