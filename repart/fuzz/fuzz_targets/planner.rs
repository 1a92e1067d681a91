//! Any snapshot, any definitions, any policy: the planner answers with a plan that holds or with a refusal.
#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use repart::{
    Architecture, Copy, Definitions, Deviations, EmptyMode, Entry, Gpt, Guid, Mbr, PartitionType,
    PlanError, Policy, Snapshot, Table, TableState, check, marked_for_reset, minimal_size, plan,
};
use repart_fuzz::Texts;
use repart_fuzz::sound::{assert_sound, is_sane};

const NAMES: [&str; 12] = [
    "esp",
    "xbootldr",
    "swap",
    "home",
    "srv",
    "var",
    "tmp",
    "linux-generic",
    "root",
    "usr",
    "usr-verity",
    "usr-verity-sig",
];

#[derive(Debug)]
struct Input {
    snapshot: Snapshot,
    texts: Texts,
    policy: Policy,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let policy = policy(u)?;
        let snapshot = snapshot(u)?;
        let count = u.int_in_range(0..=6)?;
        let texts = (0..count)
            .map(|_| definition(u, count))
            .collect::<Result<_>>()?;
        Ok(Self {
            snapshot,
            texts: Texts(texts),
            policy,
        })
    }
}

fn kind(u: &mut Unstructured) -> Result<PartitionType> {
    if u.ratio(1, 16)? {
        return Ok(PartitionType::from_uuid(Guid::from_bytes(u.arbitrary()?)));
    }
    let name = u.choose(&NAMES)?;
    Ok(PartitionType::parse(name, Architecture::native()).expect("a name"))
}

fn guid(u: &mut Unstructured) -> Result<Guid> {
    Ok(Guid::from_bytes([u.int_in_range(0..=7)?; 16]))
}

fn policy(u: &mut Unstructured) -> Result<Policy> {
    let bits: u8 = u.arbitrary()?;
    let modes = [
        EmptyMode::Allow,
        EmptyMode::Refuse,
        EmptyMode::Require,
        EmptyMode::Force,
        EmptyMode::Create,
    ];
    let empty = modes[usize::from(u.int_in_range(0..=4u8)?)];
    let grain: u8 = u.arbitrary()?;
    let mut policy = Policy::new(Guid::from_bytes([1; 16]), guid(u)?);
    policy.empty = empty;
    policy.factory_reset = bits & 1 != 0;
    policy.dry_run = bits & 2 != 0;
    policy.fs_sector_size = if bits & 4 != 0 { 512 } else { 4096 };
    policy.deviations = if bits & 8 != 0 {
        Deviations::NONE
    } else {
        Deviations::ALL
    };
    if grain & 0x80 != 0 {
        policy.grain = 1 << (grain & 0x3f);
    }
    for _ in 0..bits >> 6 {
        policy.defer.push(kind(u)?);
    }
    Ok(policy)
}

fn snapshot(u: &mut Unstructured) -> Result<Snapshot> {
    let bits: u8 = u.arbitrary()?;
    let sector_size = 512u32 << (bits & 3);
    let sector = u64::from(sector_size);
    let sectors = match bits >> 2 & 3 {
        0 => u64::from(u.arbitrary::<u16>()?),
        1 | 2 => u64::from(u.arbitrary::<u32>()?),
        // Any length a kernel can report.
        _ => u.arbitrary::<u64>()? >> 10,
    };
    let odd = if bits & 0x80 != 0 {
        u64::from(u.arbitrary::<u16>()?)
    } else {
        0
    };
    let len = sectors
        .saturating_mul(sector)
        .saturating_add(odd % sector)
        .min(i64::MAX as u64);
    let table = match bits >> 4 & 7 {
        0 => TableState::None,
        1 => TableState::Other("an MBR".into()),
        _ => match table(u, len, sector_size)? {
            Some(gpt) => TableState::Gpt(Box::new(gpt)),
            None => TableState::None,
        },
    };
    Ok(Snapshot {
        len,
        sector_size,
        table,
    })
}

/// A table that `observe` may answer with: its header fits the disk, its entries may say anything.
fn table(u: &mut Unstructured, len: u64, sector_size: u32) -> Result<Option<Gpt>> {
    let Some(mut table) = Table::new(guid(u)?, len, sector_size) else {
        return Ok(None);
    };
    let bits: u8 = u.arbitrary()?;
    if bits & 1 != 0 {
        // As other programs make them.
        table.first_usable = 2 + table.array_sectors(sector_size);
    }
    if bits & 2 != 0 {
        // From a smaller disk.
        let less = u64::from(u.arbitrary::<u32>()?);
        table.alternate_lba = table
            .alternate_lba
            .saturating_sub(less)
            .max(table.first_usable + 40);
        let last = table
            .alternate_lba
            .saturating_sub(1 + table.array_sectors(sector_size));
        table.last_usable = last.min(table.last_usable).max(table.first_usable);
    }
    let count = if bits & 4 != 0 {
        u.int_in_range(0..=128)?
    } else {
        u.int_in_range(0..=8u32)?
    };
    let mut at = table.first_usable;
    for index in 0..count {
        let how: u8 = u.arbitrary()?;
        let (first_lba, last_lba) = if how & 0x0f == 0x0f {
            (u.arbitrary()?, u.arbitrary()?)
        } else {
            let gap = match how & 3 {
                0 => 0,
                1 => u64::from(u.arbitrary::<u8>()?),
                2 => u64::from(u.arbitrary::<u16>()?) * 8,
                _ => u64::from(u.arbitrary::<u32>()?),
            };
            let size = match how >> 2 & 3 {
                0 => 0,
                1 => u64::from(u.arbitrary::<u8>()?),
                2 => u64::from(u.arbitrary::<u16>()?) * 8 + 7,
                _ => u64::from(u.arbitrary::<u32>()?),
            };
            let first = at.saturating_add(gap);
            (first, first.saturating_add(size))
        };
        if how & 0x0f != 0x0f {
            if last_lba > table.last_usable {
                break;
            }
            at = last_lba + 1;
        }
        let number = if how & 0x10 != 0 {
            u.int_in_range(1..=129)?
        } else {
            index + 1
        };
        let label = match how >> 5 {
            0 | 1 => String::new(),
            2 => "_empty".into(),
            3 => "root-x86-64".into(),
            n => format!("label{n}"),
        };
        table.set(&Entry {
            number,
            partition_type: kind(u)?,
            guid: guid(u)?,
            first_lba,
            last_lba,
            attributes: u64::from(how) << 48,
            label,
        });
    }
    let mbrs = [
        Mbr::Protective,
        Mbr::ProtectiveOtherSize,
        Mbr::Hybrid,
        Mbr::Missing,
    ];
    Ok(Some(Gpt {
        table,
        source: if bits & 8 != 0 {
            Copy::Backup
        } else {
            Copy::Primary
        },
        copies_agree: bits & 16 == 0,
        mbr: mbrs[usize::from(bits >> 5 & 3)],
    }))
}

fn bytes(u: &mut Unstructured) -> Result<u64> {
    Ok(match u.int_in_range(0..=4u8)? {
        0 => u64::from(u.arbitrary::<u16>()?) * 4096,
        1 => u64::from(u.arbitrary::<u8>()?) << 20,
        2 => u64::from(u.arbitrary::<u32>()?),
        3 => u.arbitrary()?,
        _ => u64::from(u.arbitrary::<u8>()?) << 30,
    })
}

fn definition(u: &mut Unstructured, count: u8) -> Result<Vec<u8>> {
    use std::fmt::Write as _;
    let mut text = format!("[Partition]\nType={}\n", kind(u)?.name_or_uuid());
    let keys: u16 = u.arbitrary()?;
    let mut put = |bit: u16, key: &str, value: String| {
        if keys >> bit & 1 != 0 {
            writeln!(text, "{key}={value}").expect("strings grow");
        }
    };
    let (a, b) = (bytes(u)?, bytes(u)?);
    put(0, "SizeMinBytes", a.min(b).to_string());
    put(1, "SizeMaxBytes", a.max(b).to_string());
    let (a, b) = if keys >> 2 & 3 == 0 {
        (0, 0)
    } else {
        (bytes(u)?, bytes(u)?)
    };
    put(2, "PaddingMinBytes", a.min(b).to_string());
    put(3, "PaddingMaxBytes", a.max(b).to_string());
    let small: [u8; 4] = u.arbitrary()?;
    put(4, "Weight", (u32::from(small[0]) * 3921).to_string());
    put(5, "PaddingWeight", (u32::from(small[1]) * 3921).to_string());
    put(6, "Priority", (i32::from(small[2] as i8)).to_string());
    put(7, "FactoryReset", "yes".into());
    put(
        8,
        "Label",
        ["_empty", "", "label4", "x"][usize::from(small[3] & 3)].into(),
    );
    put(
        9,
        "SupplementFor",
        format!("{:02}", small[3] % count.max(1)),
    );
    put(
        10,
        "UUID",
        if small[3] & 4 != 0 {
            "null".into()
        } else {
            guid(u)?.to_string()
        },
    );
    put(
        11,
        "Format",
        ["ext4", "vfat", "btrfs", "empty", "swap", "xfs"][usize::from(small[3] >> 3) % 6].into(),
    );
    put(12, "Encrypt", "key-file".into());
    put(13, "ReadOnly", "yes".into());
    put(14, "Flags", "0xffffffffffffffff".into());
    put(15, "GrowFileSystem", "no".into());
    Ok(text.into_bytes())
}

fuzz_target!(|input: Input| {
    let Input {
        snapshot,
        texts,
        policy,
    } = input;
    let definitions = texts.load().unwrap_or_else(|_| Definitions::default());
    let made = match plan(&snapshot, &definitions, &policy) {
        Ok(made) => made,
        Err(PlanError::Unsound(error)) => {
            assert!(
                !is_sane(&snapshot),
                "unsound on a disk that is in order: {error}"
            );
            return;
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    check(&snapshot, &made).expect("a plan that was made can be checked");
    assert_sound(&snapshot, &made);
    assert!(!made.to_string().is_empty());
    // These share the way in and must be as total.
    drop(marked_for_reset(&snapshot, &definitions, &policy));
    drop(minimal_size(&snapshot, &definitions, &policy));
});
