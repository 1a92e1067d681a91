//! `agent.toml`: the policy an image builder signs into the UKI.
//!
//! Owns: every key, its default and its unit. Unknown keys are returned to the caller: `pack` makes them an error,
//! PID 1 a warning, so that an older agent still boots a newer image's policy.

use std::time::Duration;

/// What to do after a failure card was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Reboot, so that boot counting can fall back to another entry.
    Reboot,
    /// Power off.
    PowerOff,
    /// Stop with the message on the screen.
    Halt,
}

impl OnFailure {
    /// The word of the console contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::PowerOff => "poweroff",
            Self::Halt => "halt",
        }
    }
}

/// What dm-verity does when a block of `/usr` does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCorruption {
    /// Kernel panic (`panic_on_corruption`, Linux 5.9); `panic=` decides what follows.
    Panic,
    /// Restart at once (`restart_on_corruption`, Linux 4.1).
    Restart,
}

/// Which TPM policy new volumes are sealed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PcrPolicy {
    /// The signed PCR 11 policy if the UKI carries one, else the value of PCR 7.
    Auto,
    /// Only the signed policy; a UKI without one is refused.
    Signed,
    /// The value of PCR 7.
    Pcr7,
}

/// The whole policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `on-failure`.
    pub on_failure: OnFailure,
    /// `on-failure-delay`, seconds the card stays before the action.
    pub on_failure_delay: Duration,
    /// `device-timeout`, seconds to wait for the boot disk.
    pub device_timeout: Duration,
    /// `tpm-timeout`, seconds to wait for `/dev/tpmrm0` when the firmware announces a TPM2.
    pub tpm_timeout: Duration,
    /// `usr-corruption`.
    pub usr_corruption: OnCorruption,
    /// `pcr-policy`.
    pub pcr_policy: PcrPolicy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            on_failure: OnFailure::Reboot,
            on_failure_delay: Duration::from_secs(10),
            device_timeout: Duration::from_secs(30),
            tpm_timeout: Duration::from_secs(10),
            usr_corruption: OnCorruption::Panic,
            pcr_policy: PcrPolicy::Auto,
        }
    }
}

/// Why `agent.toml` was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("agent.toml is not valid TOML")]
    Syntax(#[source] toml::de::Error),
    /// A key has a value it cannot have.
    #[error("agent.toml: {key} = {value}: expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// Its value as written.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
}

impl Config {
    /// Parses `agent.toml`; the second part lists keys this version does not know.
    ///
    /// # Errors
    /// [`ConfigError`] for broken TOML and for impossible values.
    pub fn from_toml(text: &str) -> Result<(Self, Vec<String>), ConfigError> {
        let table: toml::Table = text.parse().map_err(ConfigError::Syntax)?;
        let mut config = Self::default();
        let mut unknown = Vec::new();
        for (key, value) in &table {
            if !config.set(key, value)? {
                unknown.push(key.clone());
            }
        }
        Ok((config, unknown))
    }

    /// Sets one key; false when the key is unknown.
    fn set(&mut self, key: &str, value: &toml::Value) -> Result<bool, ConfigError> {
        match key {
            "on-failure" => {
                self.on_failure =
                    word(
                        key,
                        value,
                        "\"reboot\", \"poweroff\" or \"halt\"",
                        |w| match w {
                            "reboot" => Some(OnFailure::Reboot),
                            "poweroff" => Some(OnFailure::PowerOff),
                            "halt" => Some(OnFailure::Halt),
                            _ => None,
                        },
                    )?;
            }
            "on-failure-delay" => self.on_failure_delay = seconds(key, value)?,
            "device-timeout" => self.device_timeout = seconds(key, value)?,
            "tpm-timeout" => self.tpm_timeout = seconds(key, value)?,
            "usr-corruption" => {
                self.usr_corruption = word(key, value, "\"panic\" or \"restart\"", |w| match w {
                    "panic" => Some(OnCorruption::Panic),
                    "restart" => Some(OnCorruption::Restart),
                    _ => None,
                })?;
            }
            "pcr-policy" => {
                self.pcr_policy = word(
                    key,
                    value,
                    "\"auto\", \"signed\" or \"pcr7\"",
                    |w| match w {
                        "auto" => Some(PcrPolicy::Auto),
                        "signed" => Some(PcrPolicy::Signed),
                        "pcr7" => Some(PcrPolicy::Pcr7),
                        _ => None,
                    },
                )?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn bad(key: &str, value: &toml::Value, expected: &'static str) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        value: spelled(value),
        expected,
    }
}

/// The value as a person would write it.
fn spelled(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => format!("{text:?}"),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Boolean(truth) => truth.to_string(),
        other => format!("({})", other.type_str()),
    }
}

fn seconds(key: &str, value: &toml::Value) -> Result<Duration, ConfigError> {
    const EXPECTED: &str = "a whole number of seconds from 0 to 3600";
    match value.as_integer().map(u64::try_from) {
        Some(Ok(seconds)) if seconds <= 3600 => Ok(Duration::from_secs(seconds)),
        _ => Err(bad(key, value, EXPECTED)),
    }
}

fn word<T>(
    key: &str,
    value: &toml::Value,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, ConfigError> {
    value
        .as_str()
        .and_then(parse)
        .ok_or_else(|| bad(key, value, expected))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::from_toml("").unwrap(), (Config::default(), vec![]));
    }

    #[test]
    fn known_keys_are_set_and_unknown_ones_listed() {
        let (config, unknown) =
            Config::from_toml("on-failure = \"halt\"\ndevice-timeout = 5\nfrobnicate = 1\n")
                .unwrap();
        assert_eq!(config.on_failure, OnFailure::Halt);
        assert_eq!(config.device_timeout, Duration::from_secs(5));
        assert_eq!(unknown, ["frobnicate"]);
    }

    #[test]
    fn impossible_values_name_the_key() {
        for text in [
            "on-failure = \"explode\"",
            "device-timeout = -1",
            "tpm-timeout = \"2s\"",
            "pcr-policy = 11",
        ] {
            let error = Config::from_toml(text).unwrap_err();
            assert!(
                error.to_string().contains(text.split(' ').next().unwrap()),
                "{error}"
            );
        }
        assert!(Config::from_toml("= 1").is_err());
    }
}
