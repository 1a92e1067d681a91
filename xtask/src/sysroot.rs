//! The static C libraries: libdevmapper, libcryptsetup and tpm2-tss, built from Debian 13's sources.
//!
//! Owns `target/sysroot`, a symlink to a finished build in the user's cache, which `.cargo/config.toml` gives to
//! pkg-config. Invariant: a build's key covers this very file, the pinned sources and the compiler, so a build in the
//! cache is what this recipe makes. Sources come through apt from the machine's own mirror: apt checks the archive's
//! signature, and the digests below pin the tarballs on top, so that the key is known without asking the network.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use fixtures::{Cache, Error, Key};

/// Debian packages the build needs (same names in Debian 12 and 13). libclang is for libcryptsetup-rs-sys' bindgen;
/// popt is only probed by libcryptsetup's meson.build, nothing of ours links it; zlib and zstd belong to Debian 13's libcrypto.
pub const PACKAGES: &[&str] = &[
    "autoconf",
    "autoconf-archive",
    "automake",
    "autopoint",
    "binutils",
    "clang",
    "debian-archive-keyring",
    "gcc",
    "gettext",
    "libblkid-dev",
    "libc6-dev",
    "libclang-dev",
    "libjson-c-dev",
    "libltdl-dev",
    "libpopt-dev",
    "libssl-dev",
    "libtool",
    "libzstd-dev",
    "make",
    "meson",
    "ninja-build",
    "pkg-config",
    "uuid-dev",
    "xz-utils",
    "zlib1g-dev",
];

/// The crypto library below libcryptsetup and below tpm2-tss: the one place where this is chosen.
///
/// OpenSSL does the keyslot's AES-XTS and PBKDF2 in user space, so that no AF_ALG module is needed at boot.
const CRYPTO: Crypto = Crypto {
    cryptsetup: "openssl",
    tss: "ossl",
    debian: &["libssl-dev", "zlib1g-dev", "libzstd-dev"],
};

struct Crypto {
    cryptsetup: &'static str,
    tss: &'static str,
    /// Debian's packages with the archive that is linked, for the licence texts.
    debian: &'static [&'static str],
}

/// A source package of the suite, and the upstream tarball in it that is built.
struct Source {
    package: &'static str,
    tarball: &'static str,
    sha256: &'static str,
    /// Licence files in the tarball.
    licences: &'static [&'static str],
}

const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const DEVMAPPER: Source = Source {
    package: "lvm2",
    tarball: "lvm2_2.03.31.orig.tar.xz",
    sha256: "5541d15f739bc62263b551b1d8091ea8fc889a31ed20cdc58ff9f7192d8ecd4a",
    licences: &["COPYING.LIB"],
};
const CRYPTSETUP: Source = Source {
    package: "cryptsetup",
    tarball: "cryptsetup_2.7.5.orig.tar.gz",
    sha256: "66f82757456411353216def2e93ee6f82e1dc5c8b583cb9b1c84ecb918b60980",
    licences: &[
        "COPYING",
        "COPYING.LGPL",
        "lib/crypto_backend/argon2/LICENSE",
    ],
};
const TSS: Source = Source {
    package: "tpm2-tss",
    tarball: "tpm2-tss_4.1.3.orig.tar.gz",
    sha256: "8a389bda64690910e7af7deaf64703a3faed416dc538c9c3e4f893f24893524d",
    licences: &["LICENSE"],
};

/// Debian's own archives that are linked as they are.
const DEBIAN_ARCHIVES: &[&str] = &["libjson-c-dev", "libblkid-dev", "uuid-dev"];

const CFLAGS: &str = "-Os -ffunction-sections -fdata-sections";

/// Builds what is missing, and lets `target/sysroot` point at it.
///
/// # Errors
/// A package of [`PACKAGES`] is missing, the mirror cannot be reached or has other sources than the pinned ones, or a
/// build fails; the text carries the end of the failed program's output.
pub fn ensure(workspace: &Path) -> Result<PathBuf, String> {
    let cache = Cache::user().map_err(|e| chain(&e))?;
    let compiler = run(Command::new("gcc").args(["-v"]))?;
    let sources = [&DEVMAPPER, &CRYPTSETUP, &TSS];
    let key = sources
        .iter()
        .fold(
            Key::new("sysroot", 1).text(include_str!("sysroot.rs")),
            |key, source| key.text(source.sha256),
        )
        .text(compiler.lines().last().unwrap_or_default());
    let sysroot = cache
        .step("sysroot", &key, |dir| {
            build(&cache, &sources, dir).map_err(Error::Spec)
        })
        .map_err(|e| chain(&e))?;
    link(workspace, &sysroot)?;
    Ok(sysroot)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// Builds everything into the empty directory `sysroot`.
fn build(cache: &Cache, sources: &[&Source], sysroot: &Path) -> Result<(), String> {
    let work = sysroot.join("build");
    let tarballs = cache.root().join("sources");
    create(&work)?;
    create(&tarballs)?;
    step("sources", || fetch(sources, &tarballs, &work))?;
    for source in sources {
        let dir = work.join(source.package);
        create(&dir)?;
        run(Command::new("tar")
            .args(["--strip-components=1", "--no-same-owner", "-xf"])
            .arg(tarballs.join(source.tarball))
            .current_dir(&dir))?;
        keep_licences(source, &dir, sysroot)?;
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    step("libdevmapper", || {
        devmapper(&work.join(DEVMAPPER.package), sysroot, jobs)
    })?;
    step("libcryptsetup", || {
        cryptsetup(&work.join(CRYPTSETUP.package), sysroot)
    })?;
    step("tpm2-tss", || tss(&work.join(TSS.package), sysroot, jobs))?;
    keep_debian_licences(sysroot)?;
    relocate_pkgconfig(sysroot)?;
    fs::remove_dir_all(&work).map_err(at("remove", &work))
}

/// Device mapper alone out of lvm2: no udev synchronisation (no udevd answers in an initrd), so it makes the
/// nodes in `/dev/mapper` itself.
fn devmapper(dir: &Path, sysroot: &Path, jobs: usize) -> Result<(), String> {
    run(Command::new("./configure")
        .arg(format!("--prefix={}", sysroot.display()))
        .args("--enable-static_link --enable-pkgconfig --disable-selinux --disable-udev_sync --disable-udev_rules".split(' '))
        .args("--disable-readline --disable-blkid_wiping --disable-dmfilemapd --disable-cmdlib".split(' '))
        .args("--with-thin=none --with-cache=none --with-vdo=none --with-writecache=none --with-integrity=none".split(' '))
        .arg(format!("CFLAGS={}", cflags(dir)))
        .current_dir(dir))?;
    run(Command::new("make")
        .args(["-C", "include"])
        .current_dir(dir))?;
    run(Command::new("make")
        .args([
            "-C",
            "libdm",
            "install_static",
            "install_include",
            "install_pkgconfig",
        ])
        .arg(format!("-j{jobs}"))
        .current_dir(dir))?;
    Ok(())
}

/// Only the archive is built: meson's default target includes programs of the test suite, half of the time.
fn cryptsetup(dir: &Path, sysroot: &Path) -> Result<(), String> {
    run(Command::new("meson")
        .args(["setup", "build", "--libdir=lib", "--buildtype=plain", "--default-library=static", "--prefer-static"])
        .arg(format!("--prefix={}", sysroot.display()))
        .arg(format!("-Dc_args={} -I{}/include", cflags(dir), sysroot.display()))
        .arg(format!("-Dc_link_args=-L{}/lib", sysroot.display()))
        .arg(format!("-Dcrypto-backend={}", CRYPTO.cryptsetup))
        // It insists on an absolute path although nothing is installed there.
        .arg(format!("-Dtmpfilesdir={}/tmpfiles.d", sysroot.display()))
        .args("-Denable-static=true -Dcryptsetup=false -Dveritysetup=false -Dintegritysetup=false".split(' '))
        .args("-Dasciidoc=disabled -Dssh-token=false -Dexternal-tokens=false -Dnls=false -Dudev=false".split(' '))
        .args("-Dblkid=true -Dhw-opal=false -Dargon-implementation=internal".split(' '))
        .env("PKG_CONFIG_PATH", sysroot.join("lib/pkgconfig"))
        .current_dir(dir))?;
    run(Command::new("ninja")
        .args(["-C", "build", "lib/libcryptsetup.a"])
        .current_dir(dir))?;
    run(Command::new("meson")
        .args(["install", "-C", "build", "--no-rebuild", "--tags", "devel"])
        .current_dir(dir))?;
    Ok(())
}

fn tss(dir: &Path, sysroot: &Path, jobs: usize) -> Result<(), String> {
    // Upstream's bootstrap asks git for the version; a tarball has no git.
    edit(&dir.join("bootstrap"), |text| {
        text.lines()
            .map(|line| {
                if line.starts_with("git describe") {
                    "echo 4.1.3 > VERSION"
                } else {
                    line
                }
            })
            .fold(String::new(), |all, line| all + line + "\n")
    })?;
    own_context_no_more(&dir.join("src/tss2-esys/esys_crypto_ossl.c"))?;
    run(Command::new("./bootstrap").current_dir(dir))?;
    let prefix = sysroot.display();
    run(Command::new("./configure")
        .arg(format!("--prefix={prefix}"))
        .args([
            "--enable-static",
            "--disable-shared",
            "--enable-nodl",
            "--disable-fapi",
            "--disable-policy",
        ])
        .arg(format!("--with-crypto={}", CRYPTO.tss))
        // Errors reach us as response codes; the library would write them to the console a second time.
        .arg("--with-maxloglevel=none")
        .args([
            "--disable-doxygen-doc",
            "--disable-vendor",
            "--with-runstatedir=/run",
        ])
        .args(
            [
                "mssim",
                "cmd",
                "pcap",
                "libtpms",
                "spi-helper",
                "spi-ltt2go",
                "spi-ftdi",
                "spidev",
                "i2c-helper",
                "i2c-ftdi",
            ]
            .map(|tcti| format!("--disable-tcti-{tcti}")),
        )
        .arg(format!("--with-udevrulesdir={prefix}/build/unused"))
        .arg(format!("--sysconfdir={prefix}/build/unused"))
        .arg(format!("--localstatedir={prefix}/build/unused"))
        .arg(format!("CFLAGS={}", cflags(dir)))
        .current_dir(dir))?;
    run(Command::new("make")
        .arg(format!("-j{jobs}"))
        .current_dir(dir))?;
    run(Command::new("make")
        .args(["install-libLTLIBRARIES", "install-pkgconfigDATA"])
        .current_dir(dir))?;
    // With --enable-nodl the loader refers to the two transports, but its .pc file does not say so.
    edit(&sysroot.join("lib/pkgconfig/tss2-tctildr.pc"), |text| {
        text + "Requires.private: tss2-tcti-device tss2-tcti-swtpm tss2-mu\n"
    })?;
    // Both transports define this symbol (for dlopen); in one static program that is a clash.
    for tcti in ["device", "swtpm"] {
        let archive = sysroot.join(format!("lib/libtss2-tcti-{tcti}.a"));
        run(Command::new("objcopy")
            .arg("--localize-symbol=Tss2_Tcti_Info")
            .arg(archive))?;
    }
    Ok(())
}

/// ESYS makes a new OpenSSL library context for every hash and every nonce, each with all its algorithm tables and random
/// generators: some 15 million instructions a time. They keep it off an OpenSSL that is configured to use the TPM; ours is
/// not configured at all. Freeing the default context does nothing (`OSSL_LIB_CTX_free(3)`).
fn own_context_no_more(source: &Path) -> Result<(), String> {
    const NEW: &str = "OSSL_LIB_CTX_new()";
    edit(source, |text| {
        text.replace(NEW, "OSSL_LIB_CTX_get0_global_default()")
    })
}

fn cflags(dir: &Path) -> String {
    // The build directory's name must not end up in the archives.
    format!("{CFLAGS} -ffile-prefix-map={}=.", dir.display())
}

/// Makes the `.pc` files independent of where the directory is: it is renamed when it is complete.
fn relocate_pkgconfig(sysroot: &Path) -> Result<(), String> {
    let dir = sysroot.join("lib/pkgconfig");
    for entry in fs::read_dir(&dir).map_err(at("list", &dir))? {
        let path = entry.map_err(at("list", &dir))?.path();
        let prefix = sysroot.display().to_string();
        edit(&path, |text| text.replace(&prefix, "${pcfiledir}/../.."))?;
    }
    Ok(())
}

/// Brings the pinned tarballs into `tarballs`, unless they are there.
fn fetch(sources: &[&Source], tarballs: &Path, work: &Path) -> Result<(), String> {
    let missing: Vec<&&Source> = sources.iter().filter(|s| !is_pinned(s, tarballs)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let apt = Apt::new(&work.join("apt"))?;
    apt.run(&["update"])?;
    for source in missing {
        apt.run(&["source", "--download-only", "--tar-only", source.package])?;
        let downloaded = apt.downloads.join(source.tarball);
        if !is_pinned(source, &apt.downloads) {
            return Err(format!(
                "the source package {} of {SUITE} has no {} with SHA-256 {}: the archive moved on, or the mirror is not Debian's",
                source.package, source.tarball, source.sha256
            ));
        }
        let kept = tarballs.join(source.tarball);
        fs::copy(&downloaded, &kept).map_err(at("write", &kept))?;
    }
    Ok(())
}

fn is_pinned(source: &Source, dir: &Path) -> bool {
    let tarball = dir.join(source.tarball);
    tarball.is_file()
        && run(Command::new("sha256sum").arg("--binary").arg(tarball))
            .is_ok_and(|out| out.starts_with(source.sha256))
}

/// An apt with its own lists, cache and one source; proxies and credentials stay the machine's.
struct Apt {
    options: Vec<String>,
    downloads: PathBuf,
}

impl Apt {
    fn new(dir: &Path) -> Result<Self, String> {
        let mirror = fixtures::apt::mirror().map_err(|e| chain(&e))?;
        let downloads = dir.join("downloads");
        for sub in ["lists/partial", "cache/archives/partial", "downloads"] {
            create(&dir.join(sub))?;
        }
        let list = dir.join("sources.list");
        fs::write(
            &list,
            format!("deb-src [signed-by={KEYRING}] {mirror} {SUITE} main\n"),
        )
        .map_err(at("write", &list))?;
        let dir = dir.display();
        let options = vec![
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::Cache={dir}/cache"),
            "Acquire::Languages=none".to_owned(),
            // The directories are the user's, not the _apt user's.
            format!("APT::Sandbox::User={}", if is_root() { "root" } else { "" }),
        ];
        Ok(Self { options, downloads })
    }

    fn run(&self, args: &[&str]) -> Result<String, String> {
        let options = self.options.iter().flat_map(|option| ["-o", option]);
        run(Command::new("apt-get")
            .args(options)
            .arg("-q")
            .args(args)
            .env_remove("APT_CONFIG")
            .current_dir(&self.downloads))
    }
}

fn is_root() -> bool {
    run(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0")
}

fn keep_licences(source: &Source, dir: &Path, sysroot: &Path) -> Result<(), String> {
    let kept = sysroot.join("share/licenses").join(source.package);
    create(&kept)?;
    for licence in source.licences {
        let to = kept.join(licence.replace('/', "-"));
        fs::copy(dir.join(licence), &to).map_err(at("write", &to))?;
    }
    Ok(())
}

fn keep_debian_licences(sysroot: &Path) -> Result<(), String> {
    for package in CRYPTO.debian.iter().chain(DEBIAN_ARCHIVES) {
        let kept = sysroot.join("share/licenses").join(package);
        create(&kept)?;
        let from = Path::new("/usr/share/doc").join(package).join("copyright");
        // A machine without documentation (dpkg's path-exclude) still builds; the notice then comes from Debian.
        if from.is_file() {
            fs::copy(&from, kept.join("copyright")).map_err(at("read", &from))?;
        }
    }
    Ok(())
}

/// Lets `target/sysroot` point at the build. Cargo does not know that the archives changed when the link does, so
/// the fingerprints of the two crates that link them are removed.
fn link(workspace: &Path, sysroot: &Path) -> Result<(), String> {
    let target = workspace.join("target");
    create(&target)?;
    let link = target.join("sysroot");
    if fs::read_link(&link).is_ok_and(|old| old == sysroot) {
        return Ok(());
    }
    for fingerprints in fingerprint_dirs(&target) {
        for entry in fs::read_dir(&fingerprints).map_err(at("list", &fingerprints))? {
            let path = entry.map_err(at("list", &fingerprints))?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("tss-esapi-sys-") || name.starts_with("libcryptsetup-rs-sys-") {
                fs::remove_dir_all(&path).map_err(at("remove", &path))?;
            }
        }
    }
    let new = target.join(format!(".sysroot-{}", std::process::id()));
    symlink(sysroot, &new).map_err(at("link", &new))?;
    fs::rename(&new, &link).map_err(at("link", &link))
}

/// `target/PROFILE/.fingerprint` and `target/TRIPLE/PROFILE/.fingerprint`.
fn fingerprint_dirs(target: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        fs::read_dir(dir).map_or_else(
            |_| Vec::new(),
            |entries| entries.flatten().map(|e| e.path()).collect(),
        )
    };
    let first = below(target);
    let second: Vec<PathBuf> = first.iter().flat_map(|dir| below(dir)).collect();
    first
        .into_iter()
        .chain(second)
        .map(|dir| dir.join(".fingerprint"))
        .filter(|dir| dir.is_dir())
        .collect()
}

fn step(name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let started = Instant::now();
    work().map_err(|error| format!("{name}: {error}"))?;
    eprintln!("sysroot: {name} ({:.0} s)", started.elapsed().as_secs_f32());
    Ok(())
}

/// Runs to the end; stdout and stderr together are returned, or their end in the error.
fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        return Ok(text);
    }
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
    Err(format!("{name} failed with {}:\n{tail}", output.status))
}

fn create(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(at("create", dir))
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(at("read", path))?;
    fs::write(path, change(text)).map_err(at("write", path))
}

fn at<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> String + 'a {
    move |error| format!("cannot {what} {}: {error}", path.display())
}
