//! What can go wrong with a TPM, by cause: the agent chooses its remedy by variant, never by text.

use tss_esapi::Error;
use tss_esapi::constants::Tss2ResponseCodeKind as Kind;

/// An operation on the TPM failed.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// There is no TPM, or it does not answer.
    #[error("no TPM2 answers at {tcti}")]
    Absent {
        /// Where it was looked for.
        tcti: String,
        /// What the transport said.
        source: Error,
    },
    /// Dictionary attack protection is on: only waiting or the owner helps, and trying again makes it worse.
    #[error("the TPM is locked out after failed authorisations ({command})")]
    Lockout {
        /// The refused command.
        command: &'static str,
        /// The TPM's response.
        source: Error,
    },
    /// The secret is sealed to another state of the machine than this one.
    #[error("the TPM's state is not the one the secret is sealed to: {reason}")]
    PolicyMismatch {
        /// What differs.
        reason: String,
    },
    /// This is not the TPM the secret was sealed in, or it was cleared since.
    #[error("the secret was sealed by another TPM, or this one was cleared: {reason}")]
    OtherTpm {
        /// How it was noticed.
        reason: &'static str,
    },
    /// Nothing was ever measured into the PCR: whoever boots next can measure what he likes.
    #[error("PCR {pcr} was never extended in the {bank} bank: the firmware does not measure")]
    Unextended {
        /// The PCR.
        pcr: u8,
        /// The bank.
        bank: &'static str,
    },
    /// The PCR is in no bank (that is needed).
    #[error("the TPM has no usable bank with PCR {pcr}")]
    NoBank {
        /// The PCR.
        pcr: u8,
    },
    /// Somebody extends PCRs faster than a policy can be evaluated.
    #[error("PCRs changed {tries} times while the policy was evaluated")]
    PcrsKeepChanging {
        /// How often it was tried.
        tries: u32,
    },
    /// The public key of a signed policy cannot be used.
    #[error("unusable public key: {reason}")]
    Key {
        /// Why.
        reason: &'static str,
    },
    /// The PCR signature file cannot be used.
    #[error("unusable PCR signature file: {reason}")]
    Signatures {
        /// Why.
        reason: String,
    },
    /// A sealed object that does not parse.
    #[error("the sealed object is malformed: {reason}")]
    Blob {
        /// Why.
        reason: &'static str,
    },
    /// The TPM, or whoever sits between, answers nonsense.
    #[error("the TPM answered with {what}")]
    Answer {
        /// The nonsense.
        what: &'static str,
    },
    /// The kernel gives no random bytes.
    #[error("no random bytes")]
    Random {
        /// The kernel's error.
        source: std::io::Error,
    },
    /// Any other refusal.
    #[error("TPM command {command} failed")]
    Command {
        /// The command.
        command: &'static str,
        /// The TPM's response.
        source: Error,
    },
}

impl TpmError {
    /// Sorts a response code into its variant.
    pub(super) fn command(command: &'static str) -> impl Fn(Error) -> Self {
        move |source| match kind(&source) {
            Some(Kind::Lockout) => Self::Lockout { command, source },
            _ => Self::Command { command, source },
        }
    }
}

/// The TPM's own code, if the error is one of the TPM and not of a layer above.
pub(super) fn kind(error: &Error) -> Option<Kind> {
    match error {
        Error::Tss2Error(code) => code.kind(),
        Error::WrapperError(_) => None,
    }
}
