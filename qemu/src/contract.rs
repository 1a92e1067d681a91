//! The console contract (CONTRACT.md section 3), read back from what the guest printed.

/// `initrd-agent: stage=<name> outcome=<done|unchanged|failed> ms=<n>`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Stable name of the stage.
    pub name: String,
    /// `done`, `unchanged` or `failed`.
    pub outcome: String,
    /// Milliseconds it took.
    pub ms: u64,
}

/// `initrd-agent: failed stage=<name> code=<code> action=<action>`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The stage that failed.
    pub stage: String,
    /// Stable kebab-case code.
    pub code: String,
    /// `reboot`, `poweroff`, `halt` or `prompt`.
    pub action: String,
}

/// `initrd-agent: handover init=<path> total_ms=<n>`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The program that became PID 1.
    pub init: String,
    /// Milliseconds from our first instruction.
    pub total_ms: u64,
}

/// Begins every line of the contract.
pub const PREFIX: &str = "initrd-agent: ";
/// Last line of a boot that worked.
pub const HANDOVER: &str = "initrd-agent: handover ";
/// Last line of a boot that did not.
pub const FAILED: &str = "initrd-agent: failed ";

/// Reads a stage line.
#[must_use]
pub fn stage(line: &str) -> Option<Stage> {
    let words = after(line, "initrd-agent: stage=", "initrd-agent: ")?;
    Some(Stage {
        name: value(words, "stage")?.to_owned(),
        outcome: value(words, "outcome")?.to_owned(),
        ms: value(words, "ms")?.parse().ok()?,
    })
}

/// Reads a failure line.
#[must_use]
pub fn failure(line: &str) -> Option<Failure> {
    let words = after(line, FAILED, FAILED)?;
    Some(Failure {
        stage: value(words, "stage")?.to_owned(),
        code: value(words, "code")?.to_owned(),
        action: value(words, "action")?.to_owned(),
    })
}

/// Reads the line of the hand-over.
#[must_use]
pub fn handover(line: &str) -> Option<Handover> {
    let words = after(line, HANDOVER, HANDOVER)?;
    Some(Handover {
        init: value(words, "init")?.to_owned(),
        total_ms: value(words, "total_ms")?.parse().ok()?,
    })
}

/// All stages that `lines` report, in order.
#[must_use]
pub fn stages(lines: &[String]) -> Vec<Stage> {
    lines.iter().filter_map(|line| stage(line)).collect()
}

/// The text after `strip`, if `line` contains `wanted`; the kernel log puts a time stamp before both.
fn after<'a>(line: &'a str, wanted: &str, strip: &str) -> Option<&'a str> {
    line.get(line.find(wanted)? + strip.len()..)
}

fn value<'a>(words: &'a str, key: &str) -> Option<&'a str> {
    words
        .split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_contract_are_read_with_and_without_time_stamps() {
        let line = "[    3.141592] initrd-agent: stage=usr outcome=done ms=42";
        assert_eq!(
            stage(line),
            Some(Stage {
                name: "usr".into(),
                outcome: "done".into(),
                ms: 42
            })
        );
        let line = "initrd-agent: failed stage=usr code=usr-not-verified action=reboot";
        assert_eq!(
            failure(line).map(|failure| failure.code).as_deref(),
            Some("usr-not-verified")
        );
        assert_eq!(stage(line), None, "a failure is not a stage");
        let line = "initrd-agent: handover init=/usr/lib/systemd/systemd total_ms=1234";
        assert_eq!(handover(line).map(|handover| handover.total_ms), Some(1234));
    }

    #[test]
    fn broken_lines_are_not_read() {
        for line in [
            "initrd-agent: stage=usr outcome=done",
            "initrd-agent: stage=usr outcome=done ms=x",
            "stage=usr",
        ] {
            assert_eq!(stage(line), None, "{line}");
        }
    }
}
