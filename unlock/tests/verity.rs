//! What is accepted as a verity volume, on images made by veritysetup. (The kernel's side is proven in virtual machines.)

mod common;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use common::{on_crypt_thread, run};
use tempfile::TempDir;
use unlock::verity::{OnCorruption, Request, VerityError, check};

struct Image {
    _dir: TempDir,
    data: PathBuf,
    hash: PathBuf,
    root_hash: [u8; 32],
}

impl Image {
    fn new(blocks: usize, options: &[&str]) -> Self {
        let dir = TempDir::new().expect("temporary directory");
        let (data, hash) = (dir.path().join("data"), dir.path().join("hash"));
        let content: Vec<u8> = (0..blocks * 4096)
            .map(|i| u8::try_from(i * 7 % 251).expect("a byte"))
            .collect();
        fs::write(&data, content).expect("write");
        let mut args = vec![
            "format",
            data.to_str().expect("UTF-8"),
            hash.to_str().expect("UTF-8"),
        ];
        args.extend(options);
        let text = String::from_utf8(run("veritysetup", &args)).expect("text");
        let hex_hash = text
            .lines()
            .find_map(|line| line.strip_prefix("Root hash:"))
            .expect("a root hash")
            .trim();
        let mut root_hash = [0; 32];
        root_hash.copy_from_slice(&hex::decode(hex_hash).expect("hex")[..32]);
        Self {
            _dir: dir,
            data,
            hash,
            root_hash,
        }
    }

    fn check(&self, change: impl FnOnce(&mut Request<'_>)) -> Result<(), VerityError> {
        let mut request = Request {
            name: "usr",
            data: &self.data,
            hash: &self.hash,
            root_hash: self.root_hash,
            on_corruption: OnCorruption::Panic,
            signature: None,
        };
        change(&mut request);
        check(&request)
    }
}

fn flip(path: &PathBuf, offset: u64) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("write");
}

#[test]
fn trees_of_every_depth_are_followed() {
    on_crypt_thread(|| {
        for blocks in [1, 2, 128, 129, 128 * 128 + 1] {
            Image::new(blocks, &[])
                .check(|_| ())
                .unwrap_or_else(|e| panic!("{blocks} blocks: {e}"));
        }
        Image::new(64, &["--data-block-size=1024", "--hash-block-size=512"])
            .check(|_| ())
            .expect("small blocks");
        Image::new(64, &["--salt=-"])
            .check(|_| ())
            .expect("no salt");
    });
}

#[test]
fn a_wrong_root_hash_is_found_without_the_kernel() {
    on_crypt_thread(|| {
        let image = Image::new(300, &[]);
        let error = image
            .check(|request| request.root_hash[31] ^= 1)
            .expect_err("another hash");
        assert!(
            matches!(&error, VerityError::WrongHash { device, .. } if *device == image.hash),
            "{error:?}"
        );
    });
}

#[test]
fn damage_on_the_way_to_the_first_block_is_found() {
    on_crypt_thread(|| {
        let image = Image::new(300, &[]);
        flip(&image.data, 17);
        let error = image.check(|_| ()).expect_err("data");
        assert!(
            matches!(&error, VerityError::WrongHash { device, .. } if *device == image.data),
            "{error:?}"
        );
        flip(&image.data, 17);
        image.check(|_| ()).expect("as before");
        flip(&image.hash, 2 * 4096 + 4000);
        let error = image.check(|_| ()).expect_err("second level");
        assert!(
            matches!(&error, VerityError::WrongHash { device, .. } if *device == image.hash),
            "{error:?}"
        );
    });
}

#[test]
fn an_altered_salt_makes_the_tree_not_match() {
    on_crypt_thread(|| {
        let image = Image::new(300, &[]);
        flip(&image.hash, 88 + 5);
        assert!(matches!(
            image.check(|_| ()),
            Err(VerityError::WrongHash { .. })
        ));
    });
}

#[test]
fn other_algorithms_and_impossible_sizes_are_refused() {
    on_crypt_thread(|| {
        let image = Image::new(16, &["--hash=sha512"]);
        assert!(
            matches!(image.check(|_| ()), Err(VerityError::Unacceptable { .. })),
            "sha512"
        );
        let image = Image::new(16, &["--format=0"]);
        assert!(
            matches!(image.check(|_| ()), Err(VerityError::Unacceptable { .. })),
            "format 0"
        );
        let image = Image::new(16, &[]);
        fs::OpenOptions::new()
            .write(true)
            .open(&image.data)
            .expect("open")
            .set_len(4096)
            .expect("shorten");
        let error = image.check(|_| ()).expect_err("data partition too small");
        assert!(
            matches!(error, VerityError::Unacceptable { .. }),
            "{error:?}"
        );
    });
}

#[test]
fn garbage_and_missing_devices_are_told_apart() {
    on_crypt_thread(|| {
        let image = Image::new(16, &[]);
        let error = image
            .check(|request| request.hash = request.data)
            .expect_err("no superblock");
        assert!(matches!(error, VerityError::Superblock { .. }), "{error:?}");
        let nowhere = PathBuf::from("/nonexistent/usr");
        let missing = Request {
            name: "usr",
            data: &nowhere,
            hash: &image.hash,
            root_hash: image.root_hash,
            on_corruption: OnCorruption::Restart,
            signature: None,
        };
        let error = check(&missing).expect_err("no device");
        assert!(
            matches!(&error, VerityError::Device { device, .. } if *device == nowhere),
            "{error:?}"
        );
    });
}
