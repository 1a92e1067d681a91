//! Static mkfs programs for the initrd, from Debian 13's upstream sources. Owns: the recipes (spec static, section 4).
//! Invariant: a program is in the cache only when it is static and stripped; its key covers the recipe, the pinned
//! source and the compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixtures::{Cache, Error, Key};

use crate::debian::{self, Source};
use crate::dist::check_static;
use crate::run::{at, chain, program, quiet, step};

/// Debian packages the builds need (same names in Debian 12 and 13).
pub const PACKAGES: &[&str] = &[
    "autoconf",
    "automake",
    "autopoint",
    "binutils",
    "debian-archive-keyring",
    "gcc",
    "gettext",
    "libblkid-dev",
    "libc6-dev",
    "libinih-dev",
    "libtool",
    "liburcu-dev",
    "make",
    "pkg-config",
    "uuid-dev",
    "xz-utils",
    "zlib1g-dev",
];

const CFLAGS: &str = "-Os -ffunction-sections -fdata-sections";
const LDFLAGS: &str = "-static -Wl,--gc-sections";

/// One program: where it comes from and how it is made.
struct Recipe {
    /// Name in the initrd.
    name: &'static str,
    source: Source,
    /// Run in the unpacked source; the environment has CFLAGS, LDFLAGS and MAKEFLAGS.
    script: &'static str,
    /// What the script leaves.
    product: &'static str,
    /// The licence file in the source.
    licence: &'static str,
}

const RECIPES: [Recipe; 4] = [
    Recipe {
        name: "mkfs.btrfs",
        source: Source {
            package: "btrfs-progs",
            tarball: "btrfs-progs_6.14.orig.tar.gz",
            sha256: "5a85b791f0f32a4994e864ac4cb7abccce08e56db3010a1855ad0edeebc70b4c",
        },
        // Its own rule links mkfs.btrfs.static; -static in LDFLAGS would break the configure checks for shared ones.
        script: "./autogen.sh && LDFLAGS=-Wl,--gc-sections ./configure --disable-documentation --disable-python \
                 --disable-libudev --disable-convert --disable-zoned --disable-lzo --disable-zstd --disable-backtrace \
                 --with-crypto=builtin --disable-programs --disable-shared && make mkfs.btrfs.static",
        product: "mkfs.btrfs.static",
        licence: "COPYING",
    },
    Recipe {
        name: "mkfs.ext4",
        source: Source {
            package: "e2fsprogs",
            tarball: "e2fsprogs_1.47.2.orig.tar.gz",
            sha256: "6dcd67ff9d8b13274ba3f088e4318be4f5b71412cd863524423fc49d39a6371f",
        },
        script: "./configure --disable-nls --disable-elf-shlibs --disable-uuidd --disable-fuse2fs --disable-debugfs \
                 --disable-imager --disable-defrag --disable-e2initrd-helper --disable-tdb --disable-fsck \
                 --without-libarchive --without-pthread && make libs && make -C misc mke2fs",
        product: "misc/mke2fs",
        licence: "NOTICE",
    },
    Recipe {
        name: "mkfs.vfat",
        source: Source {
            package: "dosfstools",
            tarball: "dosfstools_4.2.orig.tar.gz",
            sha256: "64926eebf90092dca21b14259a5301b7b98e7b1943e8a201c7d726084809b527",
        },
        // Without iconv: glibc's would look for gconv modules that an initrd does not have.
        script: "./configure --without-iconv && make -C src mkfs.fat",
        product: "src/mkfs.fat",
        licence: "COPYING",
    },
    Recipe {
        name: "mkfs.xfs",
        source: Source {
            package: "xfsprogs",
            tarball: "xfsprogs_6.13.0.orig.tar.xz",
            sha256: "0459933f93d94c82bc2789e7bd63742273d9d74207cdae67dc3032038da08337",
        },
        // libtool drops a plain -static; `make mkfs` alone fails for want of the headers the first line makes.
        script: "LDFLAGS= ./configure --enable-static --disable-shared --disable-scrub --disable-libicu \
                 --disable-editline --disable-gettext && make include-headers libxfs-headers && \
                 make LLDFLAGS='-all-static -Wl,--gc-sections' mkfs",
        product: "mkfs/mkfs.xfs",
        licence: "LICENSES/GPL-2.0",
    },
];

/// Names of all programs.
pub fn names() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|recipe| recipe.name)
}

/// Builds what the cache lacks; returns the cache directory. [`find`] has the programs.
///
/// # Errors
/// The text of the failed program.
pub fn ensure() -> Result<PathBuf, String> {
    let cache = Cache::user().map_err(|error| chain(&error))?;
    for recipe in &RECIPES {
        one(&cache, recipe)?;
    }
    Ok(cache.root().to_owned())
}

/// The finished program, built if the cache lacks it.
///
/// # Errors
/// As [`ensure`].
pub fn find(name: &str) -> Result<PathBuf, String> {
    let cache = Cache::user().map_err(|error| chain(&error))?;
    let recipe = RECIPES
        .iter()
        .find(|recipe| recipe.name == name)
        .ok_or(format!("no recipe for {name}"))?;
    Ok(one(&cache, recipe)?.join(name))
}

fn one(cache: &Cache, recipe: &Recipe) -> Result<PathBuf, String> {
    let compiler = quiet(program("gcc").args(["-dumpfullversion", "-dumpmachine"]))?;
    let libc = quiet(program("ldd").arg("--version"))?;
    let key = [
        recipe.script,
        recipe.product,
        recipe.licence,
        recipe.source.sha256,
        CFLAGS,
        LDFLAGS,
    ]
    .into_iter()
    .chain([compiler.as_str(), libc.lines().next().unwrap_or_default()])
    .fold(Key::new(recipe.name, 1), Key::text);
    let make = |dir: &Path| step(recipe.name, || build(cache, recipe, dir)).map_err(Error::Spec);
    cache
        .step(recipe.name, &key, make)
        .map_err(|error| chain(&error))
}

/// Builds the program into the empty directory `dir`.
fn build(cache: &Cache, recipe: &Recipe, dir: &Path) -> Result<(), String> {
    let work = dir.join("source");
    debian::unpack(cache, &recipe.source, &work)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let script = format!("set -e; {}", recipe.script);
    let mut shell: Command = program("bash");
    // cargo hands its own pkg-config path to us, with libraries these programs must not pick up.
    for variable in [
        "PKG_CONFIG_PATH",
        "PKG_CONFIG_ALL_STATIC",
        "MAKELEVEL",
        "CARGO_MAKEFLAGS",
    ] {
        shell.env_remove(variable);
    }
    shell
        .args(["-c", &script])
        .env(
            "CFLAGS",
            format!("{CFLAGS} -ffile-prefix-map={}=.", work.display()),
        )
        .env("LDFLAGS", LDFLAGS)
        .env("MAKEFLAGS", format!("-j{jobs}"))
        .current_dir(&work);
    quiet(&mut shell)?;
    let program_file = dir.join(recipe.name);
    let product = work.join(recipe.product);
    fs::copy(&product, &program_file).map_err(at("read", &product))?;
    quiet(program("strip").arg(&program_file))?;
    check_static(&program_file)?;
    let licence = work.join(recipe.licence);
    fs::copy(&licence, dir.join("LICENCE")).map_err(at("read", &licence))?;
    fs::remove_dir_all(&work).map_err(at("remove", &work))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The programs that ship make file systems that other people's blkid knows.
    #[test]
    fn each_mkfs_makes_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        for name in names() {
            let kind = name.strip_prefix("mkfs.").unwrap();
            let image = dir.path().join(kind);
            fs::File::create(&image)
                .unwrap()
                .set_len(512 << 20)
                .unwrap();
            // The initrd has no environment and no configuration files.
            quiet(Command::new(find(name).unwrap()).env_clear().arg(&image)).unwrap();
            let found = quiet(
                program("blkid")
                    .args(["-p", "-o", "value", "-s", "TYPE"])
                    .arg(&image),
            )
            .unwrap();
            assert_eq!(found.trim(), kind);
        }
    }
}
