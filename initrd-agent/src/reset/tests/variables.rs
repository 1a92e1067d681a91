//! The variables as files, with the flag efivarfs sets and with a directory that refuses.

use super::super::identity::Part;
use super::super::variable::{
    Deletion, LEGACY, LIMIT, REQUEST, Reading, Store, WriteError, decode, encode,
};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use std::fs::{self, File};
use std::path::Path;

pub struct Flag<'a>(&'a Path);

impl<'a> Flag<'a> {
    /// Makes a file or directory immutable; mutable again when dropped, so that it can be cleaned up.
    pub fn set(path: &'a Path) -> Self {
        let file = File::open(path).unwrap();
        let flags = ioctl_getflags(&file).expect("tests need a file system with inode flags");
        ioctl_setflags(&file, flags | IFlags::IMMUTABLE).expect("tests need root");
        Self(path)
    }
}

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        if let Ok(file) = File::open(self.0) {
            drop(sys::efivar::make_mutable(std::os::fd::AsFd::as_fd(&file)));
        }
    }
}

pub fn efivars(root: &Path) -> std::path::PathBuf {
    let directory = root.join("sys/firmware/efi/efivars");
    fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn values_are_capped_and_their_attributes_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    efivars(dir.path());
    let store = Store::below(dir.path());
    assert_eq!(store.read(REQUEST), Reading::Absent);
    let put = |bytes: &[u8]| fs::write(store.path(REQUEST), bytes).unwrap();
    put(&[7, 0, 0]);
    assert_eq!(store.read(REQUEST), Reading::Truncated);
    put(&[6, 0, 0, 0, b'1', 0]);
    assert_eq!(store.read(REQUEST), Reading::Volatile);
    let mut bytes = vec![7, 0, 0, 0];
    bytes.resize(4 + LIMIT, b'x');
    put(&bytes);
    assert!(matches!(store.read(REQUEST), Reading::Value(value) if value.len() == LIMIT));
    bytes.push(b'x');
    put(&bytes);
    assert_eq!(store.read(REQUEST), Reading::Oversized);
    fs::remove_file(store.path(REQUEST)).unwrap();
    fs::create_dir(store.path(REQUEST)).unwrap();
    assert!(matches!(store.read(REQUEST), Reading::Unreadable(_)));
}

#[test]
fn a_written_variable_is_nv_bs_rt_and_utf16_with_a_nul() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::below(dir.path());
    assert!(matches!(
        store.write(REQUEST, "x"),
        Err(WriteError::NoEfi(_))
    ));
    efivars(dir.path());
    store.write(REQUEST, "aé").unwrap();
    let file = store.path(REQUEST);
    assert!(file.ends_with("FactoryResetRequest-8cf2644b-4b0b-428f-9387-6d876050dc67"));
    assert_eq!(
        fs::read(&file).unwrap(),
        [7, 0, 0, 0, b'a', 0, 0xe9, 0, 0, 0]
    );
    let immutable = Flag::set(&file);
    store.write(REQUEST, "b").unwrap();
    assert_eq!(store.read(REQUEST), Reading::Value(encode("b")));
    drop(immutable);
}

#[test]
fn deleting_clears_the_flag_looks_back_and_a_refusal_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let directory = efivars(dir.path());
    let store = Store::below(dir.path());
    assert!(matches!(store.delete(LEGACY), Deletion::Absent));
    store.write(LEGACY, "1").unwrap();
    let file = store.path(LEGACY);
    let flag = Flag::set(&file);
    assert!(matches!(store.delete(LEGACY), Deletion::Deleted));
    drop(flag);
    store.write(LEGACY, "1").unwrap();
    let refusing = Flag::set(&directory);
    assert!(matches!(store.delete(LEGACY), Deletion::Refused(_)));
    assert!(file.exists());
    drop(refusing);
}

#[test]
fn the_legacy_variable_goes_first_and_holds_the_other_back() {
    let dir = tempfile::tempdir().unwrap();
    let directory = efivars(dir.path());
    let store = Store::below(dir.path());
    store.write(LEGACY, "1").unwrap();
    store.write(REQUEST, "{}").unwrap();
    let parts = [Part::Request(encode("{}")), Part::Legacy(encode("1"))];
    let refusing = Flag::set(&directory);
    let (remaining, refusals) = store.consume(&parts);
    assert_eq!(remaining.len(), 2);
    assert_eq!(refusals.len(), 1, "the other one is not even tried");
    drop(refusing);
    assert_eq!(store.consume(&parts), (vec![], vec![]));
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    assert_eq!(store.consume(&[Part::Boot([1; 16])]), (vec![], vec![]));
}

#[test]
fn only_text_is_text() {
    assert_eq!(decode(&encode("é")).as_deref(), Some("é"));
    assert_eq!(decode(b"1\0").as_deref(), Some("1"));
    assert_eq!(decode(b"1\0\0\0\0\0").as_deref(), Some("1"));
    for bad in [&b"1"[..], b"1\0\0\x002\0", b"\x00\xd8"] {
        assert_eq!(decode(bad), None);
    }
}
