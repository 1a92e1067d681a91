//! The kernel command line as one typed policy.
//!
//! Owns: splitting (quotes as the kernel does it), the options of `CONTRACT` section 2, and the rule that a
//! security-relevant option given twice with different values is fatal: an attacker who can append to the line
//! must not win by being last. Options of the kernel itself are kept but not interpreted.
//! Source: Documentation/admin-guide/kernel-parameters.rst, kernel-command-line(7) of systemd 257.

use std::collections::BTreeMap;

/// Why a command line was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// The option appears more than once, and not with one value.
    #[error(
        "kernel command line: {option} is given more than once with different values ({first:?}, {second:?})"
    )]
    Conflict {
        /// Name of the option.
        option: String,
        /// The value that came first.
        first: String,
        /// The value that contradicts it.
        second: String,
    },
    /// The value does not parse.
    #[error("kernel command line: {option}={value}: {why}")]
    Value {
        /// Name of the option.
        option: String,
        /// Its value as given.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Options whose repetition with another value is fatal.
const SINGLE: &[&str] = &[
    "usrhash",
    "roothash",
    "root",
    "rootfstype",
    "mount.usr",
    "mount.usrfstype",
    "systemd.verity_usr_data",
    "systemd.verity_usr_hash",
    "systemd.verity_usr_options",
    "systemd.volatile",
    "systemd.factory_reset",
    "systemd.machine_id",
    "init",
];

/// Debugging doors of other initrds; never honoured here, only named in the log.
const REFUSED: &[&str] = &[
    "rd.break",
    "rd.shell",
    "rd.emergency",
    "rd.debug",
    "systemd.debug_shell",
    "rd.systemd.debug_shell",
    "emergency",
    "rescue",
    "rd.rescue",
    "rdinit",
    "systemd.set_credential",
    "systemd.set_credential_binary",
];

/// The split command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cmdline {
    options: BTreeMap<String, Vec<Option<String>>>,
}

impl Cmdline {
    /// Parses the text of `/proc/cmdline`.
    ///
    /// # Errors
    /// [`CmdlineError::Conflict`] when a single-valued option is repeated with another value.
    pub fn parse(text: &str) -> Result<Self, CmdlineError> {
        let mut options: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
        for word in split(text) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            options.entry(name).or_default().push(value);
        }
        let line = Self { options };
        for name in SINGLE {
            line.check_single(name)?;
        }
        Ok(line)
    }

    fn check_single(&self, name: &str) -> Result<(), CmdlineError> {
        let values = self
            .options
            .get(name)
            .map(Vec::as_slice)
            .unwrap_or_default();
        match values.iter().find(|value| Some(*value) != values.first()) {
            None => Ok(()),
            Some(second) => Err(CmdlineError::Conflict {
                option: name.to_owned(),
                first: values[0].clone().unwrap_or_default(),
                second: second.clone().unwrap_or_default(),
            }),
        }
    }

    /// The last value of an option; `None` when absent or without `=`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.options.get(name)?.last()?.as_deref()
    }

    /// All values of an option that may be repeated (`console=`).
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.options
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(Option::as_deref)
    }

    /// True when the option is present, with or without a value.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    /// A boolean in systemd's spelling; the bare word counts as true.
    ///
    /// # Errors
    /// [`CmdlineError::Value`] when the value is no boolean.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, CmdlineError> {
        let Some(values) = self.options.get(name) else {
            return Ok(None);
        };
        match values.last() {
            Some(Some(value)) => {
                parse_boolean(value)
                    .map(Some)
                    .ok_or_else(|| CmdlineError::Value {
                        option: name.to_owned(),
                        value: value.clone(),
                        why: "not a boolean (1, yes, true, on, 0, no, false, off)",
                    })
            }
            _ => Ok(Some(true)),
        }
    }

    /// The root hash of `/usr`: 32 bytes from `usrhash=`, 64 hexadecimal digits (SHA-256 only).
    ///
    /// # Errors
    /// [`CmdlineError::Value`] when it is not 64 hexadecimal digits.
    pub fn usr_hash(&self) -> Result<Option<[u8; 32]>, CmdlineError> {
        let Some(value) = self.value("usrhash") else {
            return Ok(None);
        };
        parse_hash(value)
            .map(Some)
            .ok_or_else(|| CmdlineError::Value {
                option: "usrhash".to_owned(),
                value: value.to_owned(),
                why: "not a SHA-256 root hash of 64 hexadecimal digits",
            })
    }

    /// `rd.timeout=` in seconds.
    ///
    /// # Errors
    /// [`CmdlineError::Value`] when it is not a whole number.
    pub fn timeout_seconds(&self) -> Result<Option<u64>, CmdlineError> {
        let Some(value) = self.value("rd.timeout") else {
            return Ok(None);
        };
        let seconds = value.strip_suffix('s').unwrap_or(value).parse();
        match seconds {
            Ok(seconds) if (1..=3600).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(CmdlineError::Value {
                option: "rd.timeout".to_owned(),
                value: value.to_owned(),
                why: "not a whole number of seconds from 1 to 3600",
            }),
        }
    }

    /// The debugging doors of other initrds that this line tries to open.
    #[must_use]
    pub fn refused(&self) -> Vec<&'static str> {
        REFUSED
            .iter()
            .copied()
            .filter(|name| self.has(name))
            .collect()
    }
}

/// systemd's spellings of a boolean, any case.
#[must_use]
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// Splits at blanks; double quotes protect blanks and are dropped, as the kernel does.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn quotes_protect_blanks() {
        let line = Cmdline::parse("a=\"b c\" quiet console=ttyS0 console=tty0\n").unwrap();
        assert_eq!(line.value("a"), Some("b c"));
        assert!(line.has("quiet"));
        assert_eq!(
            line.values("console").collect::<Vec<_>>(),
            ["ttyS0", "tty0"]
        );
    }

    #[test]
    fn a_second_different_usrhash_is_fatal_and_an_equal_one_is_not() {
        let one = "ab".repeat(32);
        assert!(Cmdline::parse(&format!("usrhash={one} usrhash={one}")).is_ok());
        let error =
            Cmdline::parse(&format!("usrhash={one} usrhash={}", "cd".repeat(32))).unwrap_err();
        assert!(matches!(error, CmdlineError::Conflict { option, .. } if option == "usrhash"));
        assert!(Cmdline::parse(&format!("usrhash={one} usrhash")).is_err());
    }

    #[test]
    fn usrhash_must_be_sha256() {
        let bytes = Cmdline::parse(&format!("usrhash={}", "0f".repeat(32)))
            .unwrap()
            .usr_hash()
            .unwrap();
        assert_eq!(bytes, Some([0x0f; 32]));
        for bad in ["", "00", "zz", &"0".repeat(63), &"+f".repeat(32)] {
            assert!(
                Cmdline::parse(&format!("usrhash={bad}"))
                    .unwrap()
                    .usr_hash()
                    .is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn booleans_are_systemds() {
        let line = Cmdline::parse("systemd.factory_reset x=maybe y=Off").unwrap();
        assert_eq!(line.boolean("systemd.factory_reset").unwrap(), Some(true));
        assert_eq!(line.boolean("y").unwrap(), Some(false));
        assert!(line.boolean("x").is_err());
        assert_eq!(line.boolean("z").unwrap(), None);
    }

    #[test]
    fn a_deadline_that_no_clock_can_hold_is_refused() {
        let seconds = |value: &str| {
            Cmdline::parse(&format!("rd.timeout={value}"))
                .unwrap()
                .timeout_seconds()
        };
        assert_eq!(seconds("30s").unwrap(), Some(30));
        for bad in ["0", "3601", "18446744073709551615", "soon"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn debugging_doors_are_named() {
        let line = Cmdline::parse("rd.break=pre-mount systemd.debug_shell rw").unwrap();
        assert_eq!(line.refused(), ["rd.break", "systemd.debug_shell"]);
    }
}
