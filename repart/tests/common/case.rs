//! Golden cases: definitions, the disk before, and what systemd-repart 262 made of it.

use std::fs;
use std::path::{Path, PathBuf};

use repart::{
    Architecture, Definitions, Deviations, DirFiles, EmptyMode, Guid, LoadContext, PartitionType,
    Policy, Specifiers, TypeFilter, parse_size,
};
use serde_json::Value;

pub const SEED: &str = "750b6cd5c4ae4012a15e7be3c29e6a47";

/// One directory below `tests/golden`.
pub struct Case {
    pub name: String,
    pub dir: PathBuf,
    pub spec: Value,
}

/// The recorded answer of 262.
pub struct Expected {
    pub table: String,
    pub json: Value,
    pub codes: Vec<i32>,
}

/// All hand-made cases, by name.
pub fn all() -> Vec<Case> {
    let cases = in_dir("golden");
    assert_eq!(cases.len(), 102, "cases in tests/golden");
    cases
}

/// Cases of the random generator, with options the hand-made ones do not have.
pub fn generated() -> Vec<Case> {
    let cases = in_dir("generated");
    assert!(
        cases.len() >= 50,
        "{} cases in tests/generated",
        cases.len()
    );
    cases
}

fn in_dir(name: &str) -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name);
    let mut cases: Vec<Case> = fs::read_dir(&root)
        .expect("a directory of cases")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().join("case.json").exists())
        .map(|entry| Case {
            name: entry
                .file_name()
                .into_string()
                .expect("case names are ASCII"),
            dir: entry.path(),
            spec: json(&entry.path().join("case.json")),
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a case's file")).expect("JSON")
}

impl Case {
    pub fn sector(&self) -> u64 {
        self.spec["sector"].as_u64().unwrap_or(512)
    }

    pub fn size(&self) -> u64 {
        self.spec["size"].as_u64().expect("size")
    }

    pub fn steps(&self) -> &[Value] {
        self.spec["steps"].as_array().expect("steps")
    }

    pub fn expected(&self) -> Expected {
        let own = self.dir.join("v262");
        let dir = if own.exists() { own } else { self.dir.clone() };
        let codes = fs::read_to_string(dir.join("expected.rc")).expect("expected.rc");
        Expected {
            table: fs::read_to_string(dir.join("expected.sfdisk")).expect("expected.sfdisk"),
            json: json(&dir.join("expected.json")),
            codes: codes
                .split_whitespace()
                .map(|code| code.parse().expect("a number"))
                .collect(),
        }
    }

    /// Arguments of a repart step with its placeholders filled in.
    pub fn arguments(&self, step: &Value, image: &Path) -> Vec<String> {
        let dir = |name: &str| self.dir.join(name).display().to_string();
        let words = step["args"]
            .as_array()
            .expect("args")
            .iter()
            .map(|word| word.as_str().expect("a string"));
        words
            .map(|word| {
                word.replace("@DEFS2@", &dir("defs2"))
                    .replace("@DEFS@", &dir("defs"))
                    .replace("@ROOT@", &dir("root"))
                    .replace("@IMG@", &image.display().to_string())
                    .replace("@CASE@", &self.dir.display().to_string())
            })
            .collect()
    }

    /// The step as input of the library; `None` if it is about the command line (creating and growing files).
    pub fn library_input(
        &self,
        step: &Value,
        deviations: Deviations,
    ) -> Option<(Definitions, Policy)> {
        let seed = Guid::parse(SEED).expect("the seed");
        let mut policy = Policy {
            deviations,
            ..Policy::new(seed, Guid::from_bytes([7; 16]))
        };
        let mut context = LoadContext {
            architecture: Architecture::parse("x86-64").expect("x86-64"),
            remap: None,
            specifiers: Specifiers::default(),
            filter: TypeFilter::All,
        };
        let mut dirs = Vec::new();
        for word in self.arguments(step, Path::new("image")) {
            let (option, value) = word.split_once('=').unwrap_or((&word, ""));
            match option {
                "--dry-run" => policy.dry_run = value == "yes",
                "--definitions" => dirs.push(PathBuf::from(value)),
                "--empty" => {
                    policy.empty = [
                        EmptyMode::Allow,
                        EmptyMode::Require,
                        EmptyMode::Force,
                        EmptyMode::Refuse,
                    ]
                    .into_iter()
                    .find(|mode| mode.name() == value)?;
                }
                "--factory-reset" => policy.factory_reset = value == "yes",
                "--architecture" => context.remap = Architecture::parse(value),
                "--include-partitions" => context.filter = TypeFilter::Include(types(value)),
                "--exclude-partitions" => context.filter = TypeFilter::Exclude(types(value)),
                "--defer-partitions" => policy.defer = types(value),
                "--sector-size" => policy.fs_sector_size = parse_size(value)?,
                "--root" | "--seed" | "--size" | "--can-factory-reset" => return None,
                _ => {}
            }
        }
        Some((Definitions::load(&DirFiles, &dirs, &context).ok()?, policy))
    }
}

fn types(value: &str) -> Vec<PartitionType> {
    value
        .split(',')
        .map(|name| PartitionType::parse(name, Architecture::native()).expect("a type"))
        .collect()
}
