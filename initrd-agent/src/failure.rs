//! A boot that cannot go on: what failed, on what, why, what happens now, what a person can do.
//!
//! Owns: the stage names, the stable codes and the card. The code and the remedy are types chosen where the failure
//! is made, never read back from a text.

use std::error::Error;

/// The stages of a boot (`CONTRACT` section 3), in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// API mounts, command line, policy, the TPM.
    Early,
    /// Drivers, the boot disk.
    Devices,
    /// The verified `/usr`.
    Usr,
    /// Factory reset requests.
    Reset,
    /// The partition table.
    Repart,
    /// Encrypted volumes.
    Unlock,
    /// The root tree.
    Root,
    /// Per-user roots.
    Users,
    /// Measurements.
    Measure,
    /// Switching to the real init.
    Handover,
}

impl Stage {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Early => "early",
            Self::Devices => "devices",
            Self::Usr => "usr",
            Self::Reset => "reset",
            Self::Repart => "repart",
            Self::Unlock => "unlock",
            Self::Root => "root",
            Self::Users => "users",
            Self::Measure => "measure",
            Self::Handover => "handover",
        }
    }
}

/// What a person can do, as one sentence a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The image itself is wrong: only its builder can mend it.
    FixImage,
    /// The command line or the policy in the UKI is wrong.
    FixPolicy,
    /// Hardware is missing or silent.
    CheckHardware,
    /// Two disks claim the same identity.
    DetachDuplicate,
    /// The disk lacks room.
    MakeRoom,
    /// `/usr` was changed or is damaged.
    Reinstall,
    /// The TPM does not give the key out.
    RestoreTpm,
    /// There is no TPM to seal to.
    EnableTpm,
    /// Something transient.
    TryAgain,
}

impl Remedy {
    fn advice(self) -> &'static str {
        match self {
            Self::FixImage => {
                "this image cannot boot here; tell its vendor the code below, or start an older entry of the boot menu"
            }
            Self::FixPolicy => {
                "correct the kernel command line or agent.toml in the UKI, or start another entry of the boot menu"
            }
            Self::CheckHardware => {
                "check that the device is connected and enabled in the firmware setup, then start again"
            }
            Self::DetachDuplicate => {
                "detach the disk that does not belong to this machine, then start again"
            }
            Self::MakeRoom => "use a larger disk, or free the space named above",
            Self::Reinstall => {
                "start an older entry of the boot menu, or write the image again; user data is not touched"
            }
            Self::RestoreTpm => {
                "undo the change of firmware, TPM or boot loader and start again; the data on the disk is untouched"
            }
            Self::EnableTpm => {
                "switch the TPM2 on in the firmware setup (it may be called PTT, fTPM or security device), then start again"
            }
            Self::TryAgain => "start again; if it happens twice tell the vendor the code below",
        }
    }
}

/// A fatal failure of one stage.
#[derive(Debug)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// Stable kebab-case code.
    pub code: &'static str,
    /// What failed on what.
    pub what: String,
    /// Why, with its own chain of sources.
    pub source: Option<Box<dyn Error + Send + Sync>>,
    /// What a person can do.
    pub remedy: Remedy,
}

impl Failure {
    /// A failure with a cause.
    pub fn new(
        stage: Stage,
        code: &'static str,
        what: impl Into<String>,
        remedy: Remedy,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            stage,
            code,
            what: what.into(),
            source: Some(source.into()),
            remedy,
        }
    }

    /// A failure that says all by itself.
    pub fn plain(
        stage: Stage,
        code: &'static str,
        what: impl Into<String>,
        remedy: Remedy,
    ) -> Self {
        Self {
            stage,
            code,
            what: what.into(),
            source: None,
            remedy,
        }
    }

    /// The card: a frame that reads well on a serial line and in a screen reader (ASCII only).
    #[must_use]
    pub fn card(&self, action: &str, delay_seconds: u64) -> String {
        let mut card = String::new();
        push(
            &mut card,
            "",
            "--------------------------------------------------------------------------",
        );
        push(&mut card, "This machine cannot finish booting.", "");
        push(&mut card, "  what failed:      ", &self.what);
        let mut cause: Option<&(dyn Error + 'static)> = self.source.as_deref().map(|e| e as _);
        let mut label = "  why:              ";
        while let Some(error) = cause {
            push(&mut card, label, &error.to_string());
            label = "                    ";
            cause = error.source();
        }
        push(&mut card, "  stage:            ", self.stage.as_str());
        push(
            &mut card,
            "  what happens now: ",
            &happens(action, delay_seconds),
        );
        push(&mut card, "  what you can do:  ", self.remedy.advice());
        push(
            &mut card,
            "",
            "--------------------------------------------------------------------------",
        );
        card
    }

    /// The marker that follows the card.
    #[must_use]
    pub fn marker(&self, action: &str) -> String {
        format!(
            "initrd-agent: failed stage={} code={} action={action}",
            self.stage.as_str(),
            self.code
        )
    }
}

fn push(card: &mut String, label: &str, text: &str) {
    let mut indent = label.to_owned();
    for line in text.lines().chain(text.is_empty().then_some("")) {
        card.push_str(&indent);
        card.push_str(line);
        card.push('\n');
        indent = " ".repeat(label.len());
    }
}

fn happens(action: &str, delay_seconds: u64) -> String {
    match action {
        "reboot" => format!("the machine reboots in {delay_seconds} s"),
        "poweroff" => format!("the machine powers off in {delay_seconds} s"),
        _ => "the machine stops here".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_card_walks_the_chain_and_names_the_action() {
        let cause = Outer(std::io::Error::other("inner"));
        let failure = Failure::new(
            Stage::Usr,
            "usr-wrong-hash",
            "/dev/vda2",
            Remedy::Reinstall,
            cause,
        );
        let card = failure.card("reboot", 10);
        assert!(
            card.contains("why:              outer\n                    inner\n"),
            "{card}"
        );
        assert!(card.contains("reboots in 10 s"));
        assert_eq!(
            failure.marker("reboot"),
            "initrd-agent: failed stage=usr code=usr-wrong-hash action=reboot"
        );
    }
}
