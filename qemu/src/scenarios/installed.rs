//! The system is installed beside another one's partitions and boots from there; theirs keep every byte.

use std::fs::File;
use std::process::Stdio;

use crate::bench::Bench;
use crate::disk::Disk;
use crate::error::{Result, file};
use crate::evidence::{self, HOME, ROOT, SWAP};
use crate::machine::{Boot, Machine};
use crate::runner::Scenario;
use crate::tpm::TpmModel;
use crate::verdict::{Tiny, claim};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "installed",
    story: "nothing: installed beside another system",
    code: "",
    run,
};

const OTHERS: &str = "label: gpt\n\
    start=2048, size=65536, type=ebd0a0a2-b9e5-4433-87c0-68b6b72699c7, name=\"Basic data\"\n\
    start=1024000, size=65536, type=0fc63daf-8483-4772-8e79-3d69d8477de4\n";

fn run(bench: &Bench<'_>) -> Result<()> {
    let stick = bench.tiny().disk("stick")?;
    let disk = Disk::blank(&bench.dir.join("disk.raw"), 2 << 30)?;
    let script = bench.dir.join("others.sfdisk");
    std::fs::write(&script, OTHERS).map_err(file("write", &script))?;
    let script = File::open(&script).map_err(file("open", &script))?;
    evidence::output(
        evidence::program("sfdisk")
            .arg(&disk.path)
            .stdin(Stdio::from(script)),
    )?;
    for offset in [1 << 20, 33 << 20, 500 << 20, (532 << 20) - 1] {
        disk.flip(offset)?;
    }
    let before = bench.snapshot(&disk)?;
    let agent = bench.ctx.dist.join("initrd-agent");
    let mut install = evidence::program(&agent.to_string_lossy());
    install
        .arg("install")
        .arg(&disk.path)
        .arg("--source")
        .arg(&stick.path)
        .arg("--yes");
    evidence::output(&mut install)?;
    evidence::kept(&before, &disk.path)?;
    claim(evidence::table(&disk.path)?.len() == 5, || {
        "not two and three partitions".to_owned()
    })?;
    let machine = Machine::fresh(&bench.dir.join("machine"), Boot::Disk)?;
    let mut machine = machine.tpm(Some(TpmModel::Crb)).disk(disk.clone());
    Tiny::boot(machine.power_on()?)?.sound(1)?;
    evidence::kept(&before, &disk.path)?;
    [ROOT, SWAP, HOME]
        .into_iter()
        .try_for_each(|kind| evidence::sealed(&disk.path, kind))
}
