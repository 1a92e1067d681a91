//! How long planning takes: 128 partitions against 64 definitions, in two shapes. Uses only the public interface.
//! Run by `cargo xtask bench repart`; fails if the least disturbed run is not below the
//! budget (a busy machine moves the median).

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use repart::{
    Architecture, Copy, Definitions, Entry, FileContent, Files, Gpt, Guid, LoadContext, Mbr,
    PartitionType, Policy, Snapshot, Table, TableState, plan,
};

const RUNS: usize = 2000;
const BUDGET: Duration = Duration::from_millis(1);
const MIB: u64 = 1 << 20;
const DEFINITIONS: usize = 64;

/// 64 definition files of four types, with and without limits, weights and priorities.
struct Texts;

impl Files for Texts {
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        if dir != Path::new("/defs") {
            return Ok(Vec::new());
        }
        Ok((0..DEFINITIONS)
            .map(|at| format!("{at:02}.conf").into())
            .collect())
    }

    fn read(&self, path: &Path) -> io::Result<FileContent> {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let at: usize = stem
            .and_then(|stem| stem.parse().ok())
            .ok_or(io::ErrorKind::NotFound)?;
        let kind = ["home", "srv", "var", "linux-generic"][at % 4];
        let (weight, padding) = (100 + at * 37 % 900, at % 3 * 50);
        let limits = match at % 5 {
            0 => "SizeMaxBytes=96M\n",
            1 => "SizeMinBytes=20M\n",
            2 => "PaddingMinBytes=4M\n",
            _ => "",
        };
        let priority = at % 7;
        let text = format!(
            "[Partition]\nType={kind}\nWeight={weight}\nPaddingWeight={padding}\nPriority={priority}\n{limits}"
        );
        Ok(FileContent::Text(text.into_bytes()))
    }
}

/// A disk with `count` partitions of 16 MiB, gaps of 32 MiB between them and much space behind.
fn snapshot(count: u32, ours: u32) -> Result<Snapshot, Box<dyn Error>> {
    let (len, sector_size) = (64u64 << 30, 512);
    let seed = Guid::from_bytes([3; 16]);
    let mut table = Table::new(seed, len, sector_size).ok_or("no room for a table")?;
    for number in 1..=count {
        let kind = if number <= ours {
            ["home", "srv", "var", "linux-generic"][usize::try_from(number)? % 4]
        } else {
            "swap"
        };
        let first_lba = (u64::from(number) * 48 * MIB) / 512;
        table.set(&Entry {
            number,
            partition_type: PartitionType::parse(kind, Architecture::native()).ok_or("a type")?,
            guid: Guid::from_bytes([u8::try_from(number)?; 16]),
            first_lba,
            last_lba: first_lba + 16 * MIB / 512 - 1,
            attributes: 0,
            label: format!("partition {number}"),
        });
    }
    let gpt = Gpt {
        table,
        source: Copy::Primary,
        copies_agree: true,
        mbr: Mbr::Protective,
    };
    Ok(Snapshot {
        len,
        sector_size,
        table: TableState::Gpt(Box::new(gpt)),
    })
}

/// Prints one line; whether the minimum is below the budget.
fn measure(name: &str, snapshot: &Snapshot) -> Result<bool, Box<dyn Error>> {
    let definitions =
        Definitions::load(&Texts, &[PathBuf::from("/defs")], &LoadContext::default())?;
    let policy = Policy::new(Guid::from_bytes([1; 16]), Guid::from_bytes([2; 16]));
    let mut took = Vec::with_capacity(RUNS);
    let mut partitions = 0;
    for _ in 0..RUNS {
        let started = Instant::now();
        let made = std::hint::black_box(
            plan(snapshot, &definitions, &policy).map_err(|e| format!("{name}: {e:?}"))?,
        );
        took.push(started.elapsed());
        partitions = made.partitions.len();
    }
    took.sort();
    let median = took[RUNS / 2];
    println!(
        "plan, {name} ({partitions} partitions, {} definitions): minimum {:.0} µs, median {:.0} µs of {RUNS} runs",
        definitions.list.len(),
        took[0].as_secs_f64() * 1e6,
        median.as_secs_f64() * 1e6
    );
    Ok(took[0] < BUDGET)
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let grow = measure("128 there, 64 of them ours", &snapshot(128, 64)?)?;
    let create = measure("64 there, 64 new", &snapshot(64, 0)?)?;
    Ok(if grow && create {
        ExitCode::SUCCESS
    } else {
        println!("planning is over its budget of {BUDGET:?}");
        ExitCode::FAILURE
    })
}
