//! `/run/initrd-agent/report.json` (`CONTRACT` section 5): what this boot did, in a stable shape.
//!
//! Owns: the field names. Fields are added, never renamed. Times are CLOCK_MONOTONIC microseconds.

use crate::failure::Stage;
use serde::Serialize;

/// Microseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// The whole report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this shape.
    pub version: u32,
    /// `first`, `normal` or `factory-reset`.
    pub boot: &'static str,
    /// Kernel's boot id, 32 hexadecimal digits.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// This program.
    pub agent: Agent,
    /// The boot disk.
    pub disk: Option<Disk>,
    /// The verified `/usr`.
    pub usr: Option<Usr>,
    /// What protects the volumes.
    pub tier: &'static str,
    /// The TPM.
    pub tpm: Tpm,
    /// The partition table after this boot.
    pub partitions: Vec<Partition>,
    /// What each stage took.
    pub stages: Vec<StageTimes>,
    /// What was odd but not fatal.
    pub warnings: Vec<Warning>,
}

/// This program.
#[derive(Debug, Clone, Serialize)]
pub struct Agent {
    /// Version of the package.
    pub version: &'static str,
    /// SHA-256 of `/init`, as `pack` noted it.
    pub sha256: String,
    /// Most memory `/init` ever held at once, KiB (`VmHWM` of proc(5)).
    pub peak_memory_kib: u64,
}

/// The boot disk.
#[derive(Debug, Clone, Serialize)]
pub struct Disk {
    /// Device node.
    pub path: String,
    /// GPT disk GUID.
    pub id: String,
    /// Logical sector size, bytes.
    pub sector_size: u64,
    /// Size, bytes.
    pub size: u64,
}

/// The verified `/usr`.
#[derive(Debug, Clone, Serialize)]
pub struct Usr {
    /// Root hash, hexadecimal.
    pub hash: String,
    /// Data partition's node.
    pub partition: String,
    /// Hash partition's node.
    pub verity: String,
    /// `none` or how the signature was checked.
    pub signature: &'static str,
}

/// The TPM as seen.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tpm {
    /// A TPM2 answered.
    pub present: bool,
    /// Vendor string.
    pub manufacturer: String,
    /// What new volumes are sealed to.
    pub policy: String,
}

/// One partition.
#[derive(Debug, Clone, Serialize)]
pub struct Partition {
    /// GPT partition UUID.
    pub uuid: String,
    /// Type name or UUID.
    #[serde(rename = "type")]
    pub type_name: String,
    /// GPT label.
    pub label: String,
    /// Partition number, from 1.
    pub number: u32,
    /// Start, bytes.
    pub offset: u64,
    /// Size, bytes.
    pub size: u64,
    /// `kept`, `created`, `grown` or `deleted`.
    pub activity: &'static str,
    /// `none` or `luks2-tpm2`.
    pub encryption: &'static str,
    /// File system this boot made or mounted, if any.
    pub filesystem: String,
}

/// One stage.
#[derive(Debug, Clone, Serialize)]
pub struct StageTimes {
    /// Its stable name.
    pub name: Stage,
    /// `done`, `unchanged` or `failed`.
    pub outcome: &'static str,
    /// Start.
    pub start_us: u64,
    /// End.
    pub end_us: u64,
    /// What it consisted of.
    pub steps: Vec<Step>,
}

/// One step of a stage.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What was done, on what.
    pub name: String,
    /// Start.
    pub start_us: u64,
    /// End.
    pub end_us: u64,
}

/// Something odd but not fatal.
#[derive(Debug, Clone, Serialize)]
pub struct Warning {
    /// Stable kebab-case code.
    pub code: &'static str,
    /// For people.
    pub text: String,
}

impl Report {
    /// An empty report of this program.
    #[must_use]
    pub fn new() -> Self {
        Self {
            version: 1,
            boot: "normal",
            boot_id: String::new(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            agent: Agent {
                version: env!("CARGO_PKG_VERSION"),
                sha256: String::new(),
                peak_memory_kib: 0,
            },
            disk: None,
            usr: None,
            tier: "none",
            tpm: Tpm::default(),
            partitions: Vec::new(),
            stages: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Notes the most memory this process held so far.
    pub fn note_memory(&mut self, root: &std::path::Path) {
        let status = std::fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
        self.agent.peak_memory_kib = kib.unwrap_or(0);
    }

    /// The JSON text.
    ///
    /// # Errors
    /// Never in practice: all keys are strings.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

impl Default for Report {
    fn default() -> Self {
        Self::new()
    }
}
