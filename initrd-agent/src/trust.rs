//! The TPM as the agent uses it: which policy new volumes are sealed to, and the phases of PCR 11.
//!
//! Invariant: on a measured UKI the word `enter-initrd` is in PCR 11 before any disk is read, or the boot ends
//! (`systemd-pcrphase.service(8)`): the booted system's signed policies assume it.

use crate::agent::Agent;
use crate::config::PcrPolicy as Choice;
use crate::devices::Devices;
use crate::efi::Variables;
use crate::failure::{Failure, Remedy, Stage};
use crate::stages::early::SignedPolicy;
use std::path::PathBuf;
use std::time::Instant;
use unlock::eventlog::{Event, EventLog, MeasureError};
use unlock::tpm::{PcrPolicy, Pcrs, PublicKey, Signatures, Tcti, Tpm, TpmError};

/// PCR of the UKI's sections and of the boot phases (UAPI.7).
const PCR_PHASES: u8 = 11;
/// PCR of the Secure Boot policy (TCG PC Client Platform Firmware Profile).
const PCR_SECURE_BOOT: u8 = 7;

/// A TPM that answers, and what it is used for.
pub struct Trust {
    /// The TPM.
    pub tpm: Tpm,
    /// Where measurements are recorded.
    pub log: EventLog,
    /// systemd-stub measured the UKI.
    pub measured: bool,
    /// What new volumes are sealed to.
    pub policy: PcrPolicy,
    /// Signatures by which volumes with a signed policy open.
    pub signatures: Option<Signatures>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust")
            .field("measured", &self.measured)
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// Opens the TPM if the firmware announces one, and extends `enter-initrd` on a measured UKI.
    ///
    /// # Errors
    /// An announced TPM that does not appear on a measured UKI, a refused measurement, a broken signature file.
    pub fn establish(
        agent: &mut Agent,
        devices: &mut Devices,
        variables: &Variables,
        signed: Option<&SignedPolicy>,
    ) -> Result<Option<Self>, Failure> {
        let measured = variables.measured_uki();
        let node = agent.root.join("dev/tpmrm0");
        if !measured && !node.exists() && !announced(agent) {
            return Ok(None);
        }
        let deadline = Instant::now() + agent.config.tpm_timeout;
        if !node.exists() {
            agent.step("all drivers", |_| devices.bring_up_all());
        }
        let waited = agent.step("wait for the TPM", |_| {
            devices.wait_for("the TPM that the firmware announces", deadline, |_| {
                node.exists().then_some(())
            })
        });
        if let Err(error) = waited {
            if measured {
                return Err(Failure::new(
                    Stage::Devices,
                    "tpm-missing",
                    "the firmware measured this boot, but no TPM2 driver brought up /dev/tpmrm0",
                    Remedy::RestoreTpm,
                    error,
                ));
            }
            agent.warn("tpm-missing", error.to_string());
            return Ok(None);
        }
        let mut trust = agent.step("open the TPM", |agent| {
            Self::open(agent, node, measured, signed)
        })?;
        if measured {
            agent
                .step("enter-initrd", |_| trust.phase("enter-initrd"))
                .map_err(|source| {
                    let what = "PCR 11 could not be extended with enter-initrd";
                    Failure::new(
                        Stage::Devices,
                        "measurement-failed",
                        what,
                        Remedy::RestoreTpm,
                        source,
                    )
                })?;
        }
        let tpm = &agent.report.tpm;
        let line = format!(
            "initrd-agent: tpm manufacturer={} measured={} policy={}",
            tpm.manufacturer,
            if measured { "yes" } else { "no" },
            tpm.policy
        );
        agent.console.line(&line);
        Ok(Some(trust))
    }

    fn open(
        agent: &mut Agent,
        node: PathBuf,
        measured: bool,
        signed: Option<&SignedPolicy>,
    ) -> Result<Self, Failure> {
        let broken = |error: TpmError| {
            Failure::new(
                Stage::Devices,
                "tpm-unusable",
                "the TPM",
                Remedy::RestoreTpm,
                error,
            )
        };
        let mut tpm = Tpm::open(&Tcti::Device(node)).map_err(broken)?;
        let properties = tpm.properties().map_err(broken)?;
        let (policy, name, signatures) = choose(agent.config.pcr_policy, signed)?;
        agent.report.tpm = crate::report::Tpm {
            present: true,
            manufacturer: properties.manufacturer,
            policy: name.to_owned(),
        };
        Ok(Self {
            tpm,
            log: EventLog::below(&agent.root),
            measured,
            policy,
            signatures,
        })
    }

    /// Extends a word into PCR 11 and records it.
    ///
    /// # Errors
    /// The TPM refused, or the record could not be written.
    pub fn phase(&mut self, word: &str) -> Result<(), MeasureError> {
        self.log.extend(
            &mut self.tpm,
            PCR_PHASES,
            word.as_bytes(),
            Event::phase(word),
        )
    }
}

/// The firmware tells of a TPM2 by an ACPI table, or the kernel has a driver for one already.
fn announced(agent: &Agent) -> bool {
    agent.root.join("sys/firmware/acpi/tables/TPM2").exists()
        || agent.root.join("sys/class/tpm/tpm0").exists()
}

/// What new volumes are sealed to.
fn choose(
    choice: Choice,
    signed: Option<&SignedPolicy>,
) -> Result<(PcrPolicy, &'static str, Option<Signatures>), Failure> {
    let broken = |error: TpmError| {
        let what = "the PCR signature or public key of the UKI";
        Failure::new(
            Stage::Devices,
            "pcr-signature-invalid",
            what,
            Remedy::FixImage,
            error,
        )
    };
    let signatures = signed
        .map(|s| Signatures::from_json(s.signatures.as_bytes()))
        .transpose()
        .map_err(broken)?;
    match (choice, signed) {
        (Choice::Auto | Choice::Signed, Some(signed)) => {
            let key = PublicKey::from_pem(&signed.public_key).map_err(broken)?;
            Ok((PcrPolicy::signed(key), "signed-pcr11", signatures))
        }
        (Choice::Signed, None) => Err(Failure::plain(
            Stage::Devices,
            "pcr-signature-missing",
            "agent.toml demands a signed PCR policy, but the UKI carries none (.pcrsig, .pcrpkey)",
            Remedy::FixImage,
        )),
        (Choice::Auto, None) | (Choice::Pcr7, _) => Ok((
            PcrPolicy::literal(Pcrs::one(PCR_SECURE_BOOT)),
            "pcr7",
            signatures,
        )),
    }
}
