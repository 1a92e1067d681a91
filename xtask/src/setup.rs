//! Debian packages that the tasks need. Owns: the whole list, and the only place that changes the machine.

use crate::run::{at, loud, program, quiet, step};
use crate::{mkfs, peer, sysroot};

/// What xtask itself and the tests of the crates call; a fresh machine has few of them.
const PACKAGES: &[&str] = &[
    "binutils",
    "bzip2",
    "cpio",
    "file",
    "kmod",
    "xz-utils",
    "zstd",
    // File systems made and judged.
    "btrfs-progs",
    "dosfstools",
    "e2fsprogs",
    "erofs-utils",
    "fdisk",
    "mtools",
    "squashfs-tools",
    "xfsprogs",
    // Loop devices, namespaces, swap.
    "mount",
    "util-linux",
    // Volumes and the TPM.
    "cryptsetup-bin",
    "openssl",
    "python3-cryptography",
    "swtpm",
    "tpm2-tools",
];

/// Installs what is missing; silent and without privileges when nothing is.
///
/// # Errors
/// Not a Debian with apt, no privileges, or apt fails.
pub fn ensure() -> Result<(), String> {
    let missing = missing(&wanted())?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!(
        "installing {} Debian packages: {}",
        missing.len(),
        missing.join(" ")
    );
    step("apt-get update", || {
        quiet(privileged()?.args(["apt-get", "-q", "update"])).map(drop)
    })?;
    let install = ["apt-get", "-q", "-y", "--no-install-recommends", "install"];
    loud(privileged()?.args(install).args(&missing))
}

fn wanted() -> Vec<&'static str> {
    let lists = [
        PACKAGES,
        sysroot::PACKAGES,
        mkfs::PACKAGES,
        peer::PACKAGES,
        fixtures::PACKAGES,
        qemu::PACKAGES,
    ];
    let mut all: Vec<&str> = lists.into_iter().flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Those of `wanted` that dpkg does not have installed. `dpkg-query` fails when it does not know one of them, which is
/// not an error here; a package that another one provides (`pkgconf` for `pkg-config`) counts.
fn missing(wanted: &[&'static str]) -> Result<Vec<&'static str>, String> {
    let format = "${db:Status-Status}\t${Package}\t${Provides}\n";
    let output = program("dpkg-query")
        .args(["--show", "--showformat", format])
        .output()
        .map_err(|error| {
            format!("cannot run dpkg-query: {error}; the tasks need Debian 12 or 13")
        })?;
    let known = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(not_installed(&known, wanted))
}

fn not_installed(known: &str, wanted: &[&'static str]) -> Vec<&'static str> {
    let installed: std::collections::BTreeSet<&str> = known
        .lines()
        .filter_map(|line| line.strip_prefix("installed\t"))
        .flat_map(|line| line.split(['\t', ',']))
        .filter_map(|name| name.split_whitespace().next())
        .collect();
    wanted
        .iter()
        .copied()
        .filter(|name| !installed.contains(name))
        .collect()
}

/// `env` with apt's environment, by sudo unless we are root.
fn privileged() -> Result<std::process::Command, String> {
    let environment = "DEBIAN_FRONTEND=noninteractive";
    if is_root()? {
        let mut command = program("env");
        command.arg(environment);
        return Ok(command);
    }
    let mut command = program("sudo");
    command.args(["env", environment]);
    Ok(command)
}

/// Whether we are root.
///
/// # Errors
/// /proc cannot be read.
pub fn is_root() -> Result<bool, String> {
    use std::os::unix::fs::MetadataExt;
    let path = std::path::Path::new("/proc/self");
    Ok(path.metadata().map_err(at("read", path))?.uid() == 0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn provided_packages_count_and_removed_ones_do_not() {
        let known = "installed\tpkgconf\tpkg-config (= 1.8.1), pkgconf64\ninstalled\tgcc\t\nconfig-files\tqemu\t\n";
        assert_eq!(
            not_installed(known, &["gcc", "pkg-config", "qemu", "zstd"]),
            ["qemu", "zstd"]
        );
    }

    #[test]
    fn every_package_exists_in_this_debian() {
        let names = wanted();
        let text = quiet(program("apt-cache").arg("policy").args(&names)).unwrap();
        for name in names {
            assert!(
                text.contains(&format!("{name}:\n")),
                "{name} is in no apt source of this machine"
            );
        }
    }
}
