//! Who asks for a factory reset, and whether that counts. Reading is here too; [`decide`] is pure and total.
//!
//! The command line beats the variables in both directions, and a reset that has begun beats the command line. What
//! is not obeyed is named, with why. The profile of a UKI asks through its measured `.cmdline` alone: `.profile` only
//! says what the menu shows, and one door is easier to guard than two. (systemd-factory-reset(8), systemd-stub(7))

use super::doom::Doomed;
use super::identity::{Identity, Part, RequestId, executed};
use super::osrelease::OsRelease;
use super::variable::{self, LEGACY, REQUEST, Reading, Store};
use crate::cmdline::{Cmdline, parse_boolean};
use repart::Guid;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// The kernel's option.
const OPTION: &str = "systemd.factory_reset";
/// `ID=` of the profile that is meant for this.
const PROFILE: &str = "factory-reset";
/// More of `/.extra/profile` is not read.
const PROFILE_LIMIT: u64 = 16 * 1024;

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `systemd.factory_reset=`, typed, configured or measured with the UKI.
    CommandLine,
    /// The same, and the UKI's profile says that it is its purpose.
    Profile,
    /// EFI variable `FactoryResetRequest`.
    Request,
    /// EFI variable `FactoryReset`.
    Legacy,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommandLine => "kernel command line",
            Self::Profile => "UKI profile factory-reset",
            Self::Request => "EFI variable FactoryResetRequest",
            Self::Legacy => "EFI variable FactoryReset",
        })
    }
}

/// Why a request is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It does not parse; the text says how.
    #[error("cannot be understood: {0}")]
    Garbage(String),
    /// It is too long.
    #[error("is longer than {} bytes", variable::LIMIT)]
    Oversized,
    /// It is not non-volatile.
    #[error("does not survive a reboot, so nobody asked before this boot")]
    Volatile,
    /// The kernel or firmware did not give it.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Another system wrote it.
    #[error("is for {theirs}, this is {ours}")]
    ForeignOs {
        /// ID and IMAGE_ID of the request.
        theirs: String,
        /// Those of the verified `/usr`.
        ours: String,
    },
    /// The verified `/usr` does not say what it is.
    #[error("cannot be matched: os-release of /usr has no ID=")]
    UnknownOs,
    /// Our own boot id cannot be read.
    #[error("cannot be dated: the kernel's boot id is not readable")]
    UnknownBoot,
    /// It was obeyed before and could not be deleted.
    #[error("was obeyed already: the partitions it made are there")]
    Executed,
    /// A profile without the option.
    #[error("says ID=factory-reset, but its command line has no systemd.factory_reset=1")]
    NoOption,
}

/// A request that is not obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Where it came from.
    pub source: Source,
    /// Why it does not count.
    pub why: Why,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.source, self.why)
    }
}

/// What this boot does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nobody asks.
    Unasked,
    /// The command line says no (or something unclear, which is no too).
    Off,
    /// A request of this very boot; it is for the next.
    Pending,
    /// Reset.
    On {
        /// Who asks.
        source: Source,
        /// Identity to begin it under.
        id: RequestId,
    },
    /// A reset was begun and has to be finished, whatever is asked for now.
    Resume {
        /// Identity it was begun under.
        id: RequestId,
    },
}

impl Decision {
    /// Data is erased in this boot.
    #[must_use]
    pub fn resets(&self) -> Option<RequestId> {
        match self {
            Self::On { id, .. } | Self::Resume { id } => Some(*id),
            Self::Unasked | Self::Off | Self::Pending => None,
        }
    }
}

/// The decision, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What to do.
    pub decision: Decision,
    /// Everything that asked in vain.
    pub ignored: Vec<Ignored>,
    /// Requests for this system that are, or were, answered by a reset; their variables have to go once the reset has
    /// begun, or at once if none is to be done.
    pub answered: Vec<Part>,
    /// The booted systemd must be told (`/run/systemd/factory-reset-complete`), or it sees a request and resets too.
    pub settles: bool,
}

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nothing.
    Absent,
    /// Yes.
    On,
    /// No.
    Off,
    /// Neither.
    Garbage(String),
}

/// Everything a decision depends on, but the partition table.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// `FactoryResetRequest`.
    pub request: Reading,
    /// `FactoryReset`.
    pub legacy: Reading,
    /// `systemd.factory_reset=`.
    pub word: Word,
    /// `/.extra/profile` has `ID=factory-reset`.
    pub profile: bool,
    /// Of the verified `/usr`.
    pub os: OsRelease,
    /// Of this boot.
    pub boot_id: Option<[u8; 16]>,
}

impl Evidence {
    /// Reads all of it below `root`; `os` is the os-release of the verified `/usr`.
    #[must_use]
    pub fn gather(root: &Path, cmdline: &Cmdline, os: OsRelease) -> Self {
        let store = Store::below(root);
        Self {
            request: store.read(REQUEST),
            legacy: store.read(LEGACY),
            word: match cmdline.boolean(OPTION) {
                Ok(None) => Word::Absent,
                Ok(Some(true)) => Word::On,
                Ok(Some(false)) => Word::Off,
                Err(error) => Word::Garbage(error.to_string()),
            },
            profile: read_text(&root.join(".extra/profile"))
                .is_some_and(|text| OsRelease::parse(&text).id.as_deref() == Some(PROFILE)),
            os,
            boot_id: read_text(&root.join("proc/sys/kernel/random/boot_id"))
                .and_then(|text| Guid::parse(text.trim()))
                .map(|id| *id.bytes()),
        }
    }
}

fn read_text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(PROFILE_LIMIT).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

/// Decides. `begun` is what the table says about a reset that was cut, `view` which partitions there are.
#[must_use]
pub fn decide(evidence: &Evidence, begun: Option<&Doomed>, view: &[Identity]) -> Judgement {
    let mut ignored = Vec::new();
    let mut ignore = |source, why| ignored.push(Ignored { source, why });
    let mut answered = Vec::new();
    let mut pending = false;
    match legacy(&evidence.legacy) {
        Ok(part) => answered.extend(part),
        Err(why) => ignore(Source::Legacy, why),
    }
    match request(evidence) {
        Ok(Asked::Nothing) => {}
        Ok(Asked::ForNextBoot) => pending = true,
        Ok(Asked::Now(part)) => answered.push(part),
        Err(why) => ignore(Source::Request, why),
    }
    let done = executed(&answered, view);
    for part in &done {
        ignore(source_of(part), Why::Executed);
    }
    if let Word::Garbage(text) = &evidence.word {
        ignore(Source::CommandLine, Why::Garbage(text.clone()));
    }
    if evidence.profile && evidence.word != Word::On {
        ignore(Source::Profile, Why::NoOption);
    }
    let fresh = answered.iter().rev().find(|part| !done.contains(part));
    let boot_id = evidence.boot_id.unwrap_or_default();
    let id = RequestId::primary(&answered, boot_id);
    let on = |source| Decision::On { source, id };
    let decision = match (&evidence.word, begun, fresh) {
        (_, Some(begun), _) => Decision::Resume { id: begun.id },
        (Word::Off | Word::Garbage(_), None, _) => Decision::Off,
        (Word::On, None, _) if evidence.profile => on(Source::Profile),
        (Word::On, None, _) => on(Source::CommandLine),
        (Word::Absent, None, Some(part)) => on(source_of(part)),
        (Word::Absent, None, None) if pending => Decision::Pending,
        (Word::Absent, None, None) => Decision::Unasked,
    };
    if decision.resets().is_none() {
        // What the command line holds back stays for a later boot.
        answered = done;
    }
    let settles = decision.resets().is_some() || !answered.is_empty();
    Judgement {
        decision,
        ignored,
        answered,
        settles,
    }
}

fn source_of(part: &Part) -> Source {
    match part {
        Part::Legacy(_) => Source::Legacy,
        Part::Request(_) => Source::Request,
        Part::Boot(_) => Source::CommandLine,
    }
}

fn value(reading: &Reading) -> Result<Option<&[u8]>, Why> {
    match reading {
        Reading::Absent => Ok(None),
        Reading::Value(value) => Ok(Some(value)),
        Reading::Oversized => Err(Why::Oversized),
        Reading::Truncated => Err(Why::Garbage("no value".to_owned())),
        Reading::Volatile => Err(Why::Volatile),
        Reading::Unreadable(text) => Err(Why::Unreadable(text.clone())),
    }
}

fn text(value: &[u8]) -> Result<String, Why> {
    variable::decode(value).ok_or_else(|| Why::Garbage("not UTF-16 text".to_owned()))
}

fn legacy(reading: &Reading) -> Result<Option<Part>, Why> {
    let Some(value) = value(reading)? else {
        return Ok(None);
    };
    match parse_boolean(&text(value)?) {
        Some(true) => Ok(Some(Part::Legacy(value.to_vec()))),
        Some(false) => Ok(None),
        None => Err(Why::Garbage("not a boolean".to_owned())),
    }
}

enum Asked {
    Nothing,
    ForNextBoot,
    Now(Part),
}

fn request(evidence: &Evidence) -> Result<Asked, Why> {
    let Some(value) = value(&evidence.request)? else {
        return Ok(Asked::Nothing);
    };
    let fields = Fields::parse(&text(value)?)?;
    let os = &evidence.os;
    let ours = os.id.as_deref().ok_or(Why::UnknownOs)?;
    if fields.id != ours || fields.image_id != os.image_id {
        return Err(Why::ForeignOs {
            theirs: name(&fields.id, fields.image_id.as_deref()),
            ours: name(ours, os.image_id.as_deref()),
        });
    }
    let current = evidence.boot_id.ok_or(Why::UnknownBoot)?;
    if *fields.boot_id.bytes() == current {
        return Ok(Asked::ForNextBoot);
    }
    Ok(Asked::Now(Part::Request(value.to_vec())))
}

/// Printable whatever the variable holds.
fn name(id: &str, image_id: Option<&str>) -> String {
    let short = |text: &str| text.chars().take(64).collect::<String>();
    match image_id {
        Some(image) => format!("{:?} image {:?}", short(id), short(image)),
        None => format!("{:?}", short(id)),
    }
}

struct Fields {
    id: String,
    image_id: Option<String>,
    boot_id: Guid,
}

impl Fields {
    /// Unknown fields are allowed, as systemd allows them; those that count must be strings.
    fn parse(text: &str) -> Result<Self, Why> {
        let garbage = |what: &str| Why::Garbage(what.to_owned());
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|e| Why::Garbage(format!("JSON: {e}")))?;
        let object = json.as_object().ok_or_else(|| garbage("no JSON object"))?;
        let string = |key: &str| match object.get(key) {
            None => Ok(None),
            Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Why::Garbage(format!("{key} is no string"))),
        };
        let boot_id = string("bootId")?.ok_or_else(|| garbage("bootId is missing"))?;
        Ok(Self {
            id: string("osReleaseId")?.ok_or_else(|| garbage("osReleaseId is missing"))?,
            image_id: string("osReleaseImageId")?.filter(|text| !text.is_empty()),
            boot_id: Guid::parse(&boot_id).ok_or_else(|| garbage("bootId is no 128-bit id"))?,
        })
    }
}

/// The value of a request as systemd 258 and later write it: the same fields in the same order.
///
/// # Errors
/// An os-release without `ID=`.
pub fn compose(os: &OsRelease, boot_id: [u8; 16]) -> Result<String, Why> {
    let id = os.id.as_deref().ok_or(Why::UnknownOs)?;
    let boot: String = boot_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let fields = [
        ("osReleaseId", Some(id)),
        ("osReleaseVersionId", os.version_id.as_deref()),
        ("osReleaseImageId", os.image_id.as_deref()),
        ("osReleaseImageVersion", os.image_version.as_deref()),
        ("bootId", Some(boot.as_str())),
    ];
    let pairs: Vec<String> = fields
        .iter()
        .filter_map(|(key, value)| {
            Some(format!("\"{key}\":{}", serde_json::Value::from((*value)?)))
        })
        .collect();
    Ok(format!("{{{}}}", pairs.join(",")))
}
