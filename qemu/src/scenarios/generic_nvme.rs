//! A person's machine: the generic kernel, an NVMe disk, a TPM behind the FIFO interface.

use fixtures::Flavour;

use crate::bench::Bench;
use crate::disk::Bus;
use crate::error::Result;
use crate::evidence::{self, ROOT};
use crate::runner::Scenario;
use crate::tpm::TpmModel;
use crate::verdict::Tiny;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "generic-nvme",
    story: "nothing: generic kernel, NVMe, TIS",
    code: "",
    run,
};

fn run(bench: &Bench<'_>) -> Result<()> {
    let system = bench
        .tiny()
        .flavour(Flavour::Generic)
        .bus(Bus::Nvme)
        .tpm(Some(TpmModel::Tis));
    let mut machine = system.machine()?;
    Tiny::boot(machine.power_on()?)?.sound(1)?;
    evidence::sealed(&machine.disks()[0].path, ROOT)
}
