//! The same answer as systemd-repart 262: every golden case through the binary, table, JSON rows and exit codes.
//! Where the peer aborts there must be an error or a sound table, never a crash.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use common::case::{self, Case, SEED};
use common::image::{self, Table};
use serde_json::Value;

/// What our binary made of a case.
struct Got {
    table: String,
    problems: Vec<String>,
    json: Value,
    codes: Vec<i32>,
    log: String,
}

fn run(case: &Case, work: &Path) -> Got {
    let image = work.join("disk.img");
    if image.exists() {
        std::fs::remove_file(&image).unwrap();
    }
    if case.spec["nofile"].as_bool() != Some(true) {
        File::create(&image).unwrap().set_len(case.size()).unwrap();
    }
    let open = || File::options().read(true).write(true).open(&image).unwrap();
    let mut got = Got {
        table: String::new(),
        problems: Vec::new(),
        json: Value::Null,
        codes: Vec::new(),
        log: String::new(),
    };
    for step in case.steps() {
        match step["op"].as_str().unwrap() {
            "gpt" => image::write_gpt(&mut open(), step, case.sector()),
            "dos" => image::write_dos(&mut open()),
            "resize" => open().set_len(step["size"].as_u64().unwrap()).unwrap(),
            "delete" => image::delete(&mut open(), step["part"].as_u64().unwrap(), case.sector()),
            "repart" => {
                let arguments = case.arguments(step, &image);
                let mut command = Command::new(env!("CARGO_BIN_EXE_repart-core"));
                command.args(["--pretty=no", "--json=pretty", "--offline=yes"]);
                if !arguments.iter().any(|word| word.starts_with("--seed")) {
                    command.arg(format!("--seed={SEED}"));
                }
                let out = command.args(&arguments).output().unwrap();
                got.codes.push(out.status.code().unwrap_or(-1));
                got.json = normalised(&String::from_utf8(out.stdout).unwrap(), case, &image);
                got.log += &String::from_utf8_lossy(&out.stderr);
            }
            other => panic!("unknown step {other}"),
        }
    }
    match Table::read(&open(), case.sector()) {
        Some(table) => {
            got.table = table.dump();
            got.problems = table.problems;
        }
        None => got.table = "(no GPT)\n".to_owned(),
    }
    got
}

/// Paths of this machine replaced, as in the recorded answers; rows in any order.
fn normalised(text: &str, case: &Case, image: &Path) -> Value {
    let text = text
        .replace(&image.display().to_string(), "disk")
        .replace(&format!("{}/", case.dir.display()), "");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

fn sorted(json: &Value) -> Vec<String> {
    let mut rows: Vec<String> = json.as_array().map_or(Vec::new(), |rows| {
        rows.iter().map(Value::to_string).collect()
    });
    rows.sort();
    rows
}

#[test]
fn every_case_agrees_with_262() {
    assert_eq!(compare(case::all()), 5, "cases on which the peer aborts");
}

#[test]
fn generated_cases_agree_with_262() {
    compare(case::generated());
}

/// Answers on how many cases the peer aborts.
fn compare(cases: Vec<Case>) -> usize {
    let work = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut failures = Vec::new();
    let mut peer_aborts = 0;
    for case in cases {
        let expected = case.expected();
        let got = run(&case, work.path());
        let mut wrong = got.problems.clone();
        if got.codes.iter().any(|code| !matches!(code, 0 | 1 | 77)) {
            wrong.push(format!("exit codes {:?}", got.codes));
        }
        if expected.codes.iter().any(|code| *code < 0) {
            peer_aborts += 1;
        } else {
            // A dos label has no dump of ours.
            let expected_table = if expected.table.starts_with("label: gpt") {
                &expected.table
            } else {
                "(no GPT)\n"
            };
            if got.codes != expected.codes {
                wrong.push(format!(
                    "exit codes {:?}, wanted {:?}",
                    got.codes, expected.codes
                ));
            }
            if got.table != expected_table {
                wrong.push(format!("table\n{}wanted\n{expected_table}", got.table));
            }
            if sorted(&got.json) != sorted(&expected.json)
                || got.json.is_null() != expected.json.is_null()
            {
                wrong.push(format!("JSON\n{:#}\nwanted\n{:#}", got.json, expected.json));
            }
        }
        if !wrong.is_empty() {
            failures.push(format!("{}: {}\n{}", case.name, wrong.join("\n"), got.log));
        }
    }
    assert!(
        failures.is_empty(),
        "{} cases differ\n{}",
        failures.len(),
        failures.join("\n")
    );
    peer_aborts
}
