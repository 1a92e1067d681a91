//! The arrows between the crates, as ARCHITECTURE.md draws them, over `cargo metadata`: the picture cannot rot.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn strings(value: &Value) -> BTreeSet<String> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Name of each member of the workspace, and the members it depends on in any way, tests included.
fn arrows(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let members = strings(&metadata["workspace_members"]);
    let ours: Vec<&Value> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| members.contains(package["id"].as_str().unwrap()))
        .collect();
    let names: BTreeSet<&str> = ours
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    ours.iter()
        .map(|package| {
            let on = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|dep| !dep["path"].is_null());
            let on = on
                .map(|dep| dep["name"].as_str().unwrap().to_owned())
                .filter(|name| names.contains(name.as_str()))
                // A crate may test itself with a feature on.
                .filter(|name| package["name"] != *name);
            (package["name"].as_str().unwrap().to_owned(), on.collect())
        })
        .collect()
}

#[test]
fn crates_depend_on_each_other_as_drawn() {
    let arrows = arrows(&metadata());
    let names: BTreeSet<String> = arrows.keys().cloned().collect();
    let drawn = [
        "fixtures",
        "initrd-agent",
        "qemu",
        "repart",
        "switchroot",
        "sys",
        "unlock",
        "xtask",
    ];
    assert_eq!(
        names,
        set(&drawn),
        "a new crate needs its place in the picture first"
    );
    for (name, on) in &arrows {
        match name.as_str() {
            "initrd-agent" => assert_eq!(*on, set(&["repart", "switchroot", "sys", "unlock"])),
            "repart" | "unlock" | "switchroot" => {
                assert!(
                    on.is_subset(&set(&["sys"])),
                    "{name} may know sys alone, not {on:?}"
                );
            }
            "xtask" => assert_eq!(*on, set(&["fixtures", "qemu"])),
            // Scenarios boot what the fixtures make.
            "qemu" => assert_eq!(*on, set(&["fixtures"])),
            _ => assert_eq!(*on, set(&[]), "{name} stands alone"),
        }
    }
}

/// What judges must not be built from what is judged, and must compile before any C library is installed.
#[test]
fn nothing_that_drives_tools_links_a_c_library() {
    let metadata = metadata();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let packages: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package))
        .collect();
    let mut waiting: Vec<&str> = packages
        .iter()
        .filter(|(_, package)| {
            ["xtask", "fixtures", "qemu"]
                .iter()
                .any(|name| package["name"] == *name)
        })
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(waiting.len(), 3);
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let package = packages[id];
        assert!(
            package["links"].is_null(),
            "{} links {}",
            package["name"],
            package["links"]
        );
        let node = nodes.iter().find(|node| node["id"] == *id).unwrap();
        waiting.extend(
            node["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .map(|dep| dep.as_str().unwrap()),
        );
    }
    assert!(
        seen.len() > 10,
        "the dependency graph was not followed: {seen:?}"
    );
}
