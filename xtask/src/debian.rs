//! Upstream tarballs of Debian source packages, fetched through apt from the machine's own mirror. Invariant: apt
//! checks the archive's signature, and a pinned digest on top fixes the bytes, so that a build's cache key is known
//! without asking the network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::{Cache, SUITE};

use crate::run::{at, chain, program, quiet};
use crate::setup;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A source package of the suite and the upstream tarball in it.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Name of the source package.
    pub package: &'static str,
    /// File name of the tarball.
    pub tarball: &'static str,
    /// Its SHA-256.
    pub sha256: &'static str,
}

/// Unpacks the tarball of `source` into `dir`, without its top directory; fetches it first if the cache lacks it.
///
/// # Errors
/// The mirror cannot be reached or has another tarball, or a program fails.
pub fn unpack(cache: &Cache, source: &Source, dir: &Path) -> Result<(), String> {
    let kept = cache.root().join("sources");
    fs::create_dir_all(&kept).map_err(at("create", &kept))?;
    let tarball = kept.join(source.tarball);
    if !is_pinned(source, &tarball) {
        fetch(source, &tarball, &dir.with_extension("apt"))?;
    }
    fs::create_dir_all(dir).map_err(at("create", dir))?;
    let mut tar = program("tar");
    tar.args(["--strip-components=1", "--no-same-owner", "-xf"])
        .arg(&tarball)
        .current_dir(dir);
    quiet(&mut tar).map(drop)
}

fn is_pinned(source: &Source, tarball: &Path) -> bool {
    tarball.is_file()
        && quiet(program("sha256sum").arg("--binary").arg(tarball))
            .is_ok_and(|sum| sum.starts_with(source.sha256))
}

fn fetch(source: &Source, kept: &Path, scratch: &Path) -> Result<(), String> {
    let Source {
        package,
        tarball,
        sha256,
    } = *source;
    let apt = Apt::new(scratch, "deb-src", SUITE)?;
    quiet(apt.command().arg("update"))?;
    quiet(
        apt.command()
            .args(["source", "--download-only", "--tar-only", package]),
    )?;
    let downloaded = apt.dir.join(tarball);
    if !is_pinned(source, &downloaded) {
        return Err(format!(
            "the source package {package} of {SUITE} has no {tarball} with SHA-256 {sha256}: the archive moved on \
             (then pin the new one), or the mirror is not Debian's"
        ));
    }
    // A name of its own and a rename, so that two tasks at once cannot see half a file.
    let part = kept.with_extension(format!("{}.part", std::process::id()));
    fs::copy(&downloaded, &part).map_err(at("write", &part))?;
    fs::rename(&part, kept).map_err(at("write", kept))?;
    fs::remove_dir_all(scratch).map_err(at("remove", scratch))
}

/// An apt with its own lists, cache and one source; proxies and credentials stay the machine's.
pub struct Apt {
    /// Where it lives and downloads to.
    pub dir: PathBuf,
}

impl Apt {
    /// Packages (`deb`) or sources (`deb-src`) of a suite.
    ///
    /// # Errors
    /// The machine has no Debian mirror, or `dir` cannot be written.
    pub fn new(dir: &Path, kind: &str, suite: &str) -> Result<Self, String> {
        let mirror = fixtures::apt::mirror().map_err(|error| chain(&error))?;
        for sub in ["lists/partial", "cache/archives/partial"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).map_err(at("create", &sub))?;
        }
        let list = dir.join("sources.list");
        let line = format!("{kind} [signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(&list, line).map_err(at("write", &list))?;
        // Else apt looks for the source of the version that happens to be installed here.
        let status = dir.join("status");
        fs::write(&status, "").map_err(at("write", &status))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// apt-get with all that set, in its directory.
    pub fn command(&self) -> Command {
        let dir = self.dir.display();
        // The directories are the user's, not the _apt user's.
        let user = if setup::is_root().unwrap_or(false) {
            "root"
        } else {
            ""
        };
        let mut command = program("apt-get");
        command
            .env_remove("APT_CONFIG")
            .current_dir(&self.dir)
            .arg("-q");
        for option in [
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::State::status={dir}/status"),
            format!("Dir::Cache={dir}/cache"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            format!("APT::Sandbox::User={user}"),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}
