//! The TPM2: measuring into PCRs, and secrets sealed to them.
//!
//! One [`Tpm`] is one connection with one salted session that encrypts parameters both ways, so that neither a secret
//! nor an authorisation passes the bus in clear (spec trust 12 E). SHA-256 is the only bank anything is bound to;
//! every allocated bank is extended (12 H).

mod error;
pub mod policy;
pub(crate) mod provenance;
mod seal;
mod signature;
mod srk;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tss_esapi::Context;
use tss_esapi::constants::{CapabilityType, PropertyTag, Tss2ResponseCodeKind as Kind};
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, Digest, DigestValues, PcrSelectionList, PcrSlot};
use tss_esapi::tcti_ldr::{DeviceConfig, TctiNameConf};
use tss_esapi::tss2_esys::TPMT_TK_VERIFIED;

pub use error::TpmError;
pub use policy::{PcrPolicy, Pcrs, PublicKey, SignedPolicy};
pub(crate) use seal::fill_random;
pub use seal::{Sealed, Secret};
pub use signature::Signatures;
pub use srk::SRK_HANDLE;

/// Where the TPM is.
#[derive(Debug, Clone)]
pub enum Tcti {
    /// A character device; `/dev/tpmrm0` at boot.
    Device(PathBuf),
    /// A software TPM at 127.0.0.1 (its control port is the next one up). For tests.
    #[cfg(feature = "swtpm")]
    Swtpm {
        /// Port of the command channel.
        port: u16,
    },
}

impl std::fmt::Display for Tcti {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(path) => path.display().fmt(f),
            #[cfg(feature = "swtpm")]
            Self::Swtpm { port } => write!(f, "swtpm port {port}"),
        }
    }
}

impl Tcti {
    /// Never `TctiNameConf::from_str`: it drags a regular expression engine into PID 1.
    fn name_conf(&self) -> tss_esapi::Result<TctiNameConf> {
        match self {
            Self::Device(path) => Ok(TctiNameConf::Device(DeviceConfig::from_str(
                &path.to_string_lossy(),
            )?)),
            #[cfg(feature = "swtpm")]
            Self::Swtpm { port } => Ok(TctiNameConf::Swtpm(
                tss_esapi::tcti_ldr::NetworkTPMConfig::from_str(&format!(
                    "host=127.0.0.1,port={port}"
                ))?,
            )),
        }
    }
}

/// A PCR bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bank {
    /// SHA-1, extended if it is there, never bound to.
    Sha1,
    /// SHA-256: the bank every policy of ours uses.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Bank {
    /// The name in JSON texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The bank's digest of some bytes.
    pub fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => sha1::Sha1::digest(data).to_vec(),
            Self::Sha256 => Sha256::digest(data).to_vec(),
            Self::Sha384 => Sha384::digest(data).to_vec(),
            Self::Sha512 => Sha512::digest(data).to_vec(),
        }
    }

    fn algorithm(self) -> HashingAlgorithm {
        match self {
            Self::Sha1 => HashingAlgorithm::Sha1,
            Self::Sha256 => HashingAlgorithm::Sha256,
            Self::Sha384 => HashingAlgorithm::Sha384,
            Self::Sha512 => HashingAlgorithm::Sha512,
        }
    }

    fn of(algorithm: HashingAlgorithm) -> Option<Self> {
        match algorithm {
            HashingAlgorithm::Sha1 => Some(Self::Sha1),
            HashingAlgorithm::Sha256 => Some(Self::Sha256),
            HashingAlgorithm::Sha384 => Some(Self::Sha384),
            HashingAlgorithm::Sha512 => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// Who made the TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Four letters registered with the TCG, e.g. `IBM` for swtpm or `INTC`.
    pub manufacturer: String,
    /// The vendor's own text.
    pub vendor: String,
    /// Firmware version, both words.
    pub firmware: u64,
}

/// Which signature was verified: the key's fingerprint and the digest it signed.
type Verified = ([u8; 32], Vec<u8>);

/// An open TPM.
pub struct Tpm {
    context: Context,
    srk: Option<srk::Srk>,
    session: Option<AuthSession>,
    /// The last signature that was found good: key and digest, and the TPM's ticket for it.
    verified: Option<(Verified, TPMT_TK_VERIFIED)>,
    /// Allocated banks, as the TPM told: they change with a reset only.
    allocated: Option<PcrSelectionList>,
}

impl Tpm {
    /// Opens the TPM and asks it something, so that a device node without a TPM behind is found here.
    ///
    /// # Errors
    /// [`TpmError::Absent`].
    pub fn open(tcti: &Tcti) -> Result<Self, TpmError> {
        let absent = |source| TpmError::Absent {
            tcti: tcti.to_string(),
            source,
        };
        let context = Context::new(tcti.name_conf().map_err(absent)?).map_err(absent)?;
        let mut tpm = Self {
            context,
            srk: None,
            session: None,
            verified: None,
            allocated: None,
        };
        match tpm.property(PropertyTag::Manufacturer) {
            Err(TpmError::Command { source, .. }) => Err(absent(source)),
            Err(error) => Err(error),
            Ok(_) => Ok(tpm),
        }
    }

    /// Manufacturer and firmware, for the report.
    ///
    /// # Errors
    /// The TPM does not answer.
    pub fn properties(&mut self) -> Result<Properties, TpmError> {
        let text = |words: &[u32]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            String::from_utf8_lossy(&bytes)
                .trim_matches(|c: char| c == '\0' || c.is_whitespace())
                .to_owned()
        };
        let manufacturer = text(&[self.property(PropertyTag::Manufacturer)?]);
        let vendor = text(&[
            self.property(PropertyTag::VendorString1)?,
            self.property(PropertyTag::VendorString2)?,
            self.property(PropertyTag::VendorString3)?,
            self.property(PropertyTag::VendorString4)?,
        ]);
        let high = u64::from(self.property(PropertyTag::FirmwareVersion1)?);
        let low = u64::from(self.property(PropertyTag::FirmwareVersion2)?);
        Ok(Properties {
            manufacturer,
            vendor,
            firmware: high << 32 | low,
        })
    }

    /// The banks in which `pcr` is allocated.
    ///
    /// # Errors
    /// The TPM does not answer.
    pub fn banks(&mut self, pcr: u8) -> Result<Vec<Bank>, TpmError> {
        let slot = slot(pcr)?;
        if self.allocated.is_none() {
            let (data, _) = self.call("GetCapability", |ctx| {
                ctx.get_capability(CapabilityType::AssignedPcr, 0, 16)
            })?;
            let CapabilityData::AssignedPcr(selections) = data else {
                return Err(TpmError::Answer {
                    what: "a capability that was not asked for",
                });
            };
            self.allocated = Some(selections);
        }
        Ok(self
            .allocated
            .iter()
            .flat_map(PcrSelectionList::get_selections)
            .filter(|selection| selection.is_selected(slot))
            .filter_map(|selection| Bank::of(selection.hashing_algorithm()))
            .collect())
    }

    /// The value of a PCR, or nothing if the bank lacks it.
    ///
    /// # Errors
    /// The TPM does not answer.
    pub fn pcr_read(&mut self, bank: Bank, pcr: u8) -> Result<Option<Vec<u8>>, TpmError> {
        let selection = self.selection(bank, Pcrs::one(pcr))?;
        let (_, _, digests) = self.call("PCR_Read", |ctx| ctx.pcr_read(selection.clone()))?;
        Ok(digests
            .value()
            .first()
            .map(|digest| digest.value().to_vec()))
    }

    /// Extends a PCR with the digest of `data`, in every bank that has it. Returns what was extended, for the log.
    ///
    /// # Errors
    /// No bank has the PCR, or the TPM refuses.
    pub fn extend_all_banks(
        &mut self,
        pcr: u8,
        data: &[u8],
    ) -> Result<Vec<(Bank, Vec<u8>)>, TpmError> {
        let digests: Vec<_> = self
            .banks(pcr)?
            .into_iter()
            .map(|bank| (bank, bank.digest(data)))
            .collect();
        self.extend(pcr, &digests)?;
        Ok(digests)
    }

    /// Extends a PCR with ready digests.
    ///
    /// # Errors
    /// There are none, or the TPM refuses.
    pub fn extend(&mut self, pcr: u8, digests: &[(Bank, Vec<u8>)]) -> Result<(), TpmError> {
        if digests.is_empty() {
            return Err(TpmError::NoBank { pcr });
        }
        let handle = PcrHandle::try_from(u32::from(pcr)).map_err(|_| TpmError::NoBank { pcr })?;
        let mut values = DigestValues::new();
        for (bank, digest) in digests {
            let digest =
                Digest::try_from(digest.as_slice()).map_err(TpmError::command("PCR_Extend"))?;
            values.set(bank.algorithm(), digest);
        }
        self.call("PCR_Extend", |ctx| {
            ctx.execute_with_session(Some(AuthSession::Password), |ctx| {
                ctx.pcr_extend(handle, values.clone())
            })
        })
    }

    fn property(&mut self, tag: PropertyTag) -> Result<u32, TpmError> {
        Ok(self
            .call("GetCapability", |ctx| ctx.get_tpm_property(tag))?
            .unwrap_or(0))
    }

    fn selection(&self, bank: Bank, pcrs: Pcrs) -> Result<PcrSelectionList, TpmError> {
        let slots = pcrs.iter().map(slot).collect::<Result<Vec<_>, _>>()?;
        PcrSelectionList::builder()
            .with_selection(bank.algorithm(), &slots)
            .build()
            .map_err(TpmError::command("PCR selection"))
    }

    /// Runs one command; a TPM that is busy is asked again for at most about two seconds.
    fn call<T>(
        &mut self,
        command: &'static str,
        mut run: impl FnMut(&mut Context) -> tss_esapi::Result<T>,
    ) -> Result<T, TpmError> {
        let mut pause = Duration::from_millis(4);
        loop {
            match run(&mut self.context) {
                Err(error) if busy(&error) && pause < Duration::from_secs(2) => {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                result => return result.map_err(TpmError::command(command)),
            }
        }
    }
}

fn busy(error: &tss_esapi::Error) -> bool {
    matches!(
        error::kind(error),
        Some(Kind::Retry | Kind::Yielded | Kind::Testing | Kind::NvRate)
    )
}

fn slot(pcr: u8) -> Result<PcrSlot, TpmError> {
    1u32.checked_shl(pcr.into())
        .filter(|_| pcr < 24)
        .and_then(|bit| PcrSlot::try_from(bit).ok())
        .ok_or(TpmError::NoBank { pcr })
}
