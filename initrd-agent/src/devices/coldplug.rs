//! Bringing devices up: once for those that are there, then for those the kernel announces.
//!
//! Invariant: the socket is opened before /sys is looked at, so no device is missed; each modalias is looked up once.
//!
//! The kernel checks the signature of each module file, which costs some 30 million instructions however small it is, and
//! a SATA controller without disks half a second. So drivers come in two steps: first those on the way to a disk, and
//! all others ([`Devices::bring_up_all`]) only when that did not do. The booted system's udev asks for all anyway.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sys::uevent::{Received, Socket, Uevent};

use super::disks;
use super::error::DevicesError;
use super::modules::{Load, LoadError, Modules};

/// Events of these come with every module we load and bring no device.
const NOISE: [&str; 4] = ["module", "drivers", "bus", "slab"];

/// The machine's devices, as far as they have come up.
#[derive(Debug)]
pub struct Devices {
    root: PathBuf,
    modules: Modules,
    events: Socket,
    seen: HashSet<String>,
    /// Not on the way to a disk; `None` once all have been asked for.
    deferred: Option<Vec<String>>,
    failures: Vec<LoadError>,
    loaded: usize,
}

/// Beginnings of what brings up disks by themselves, or the bus they are on, and nothing slow with it. Modaliases as in
/// the kernel's file2alias.c; PCI classes as in pci_ids.h.
const ON_THE_WAY: [&str; 9] = [
    "virtio:d00000002", // block
    "virtio:d00000003", // console: the card of a failure
    "virtio:d00000008", // SCSI
    "virtio:d0000001B", // persistent memory
    "vmbus:",
    "xen:",
    "mmc:",
    "scsi:",
    "platform:simple-framebuffer", // the card of a failure
];
/// PCI: SCSI, RAID, SAS, NVMe and UFS controllers, SD hosts.
const PCI_CLASSES: [&str; 6] = [
    "bc01sc00", "bc01sc04", "bc01sc07", "bc01sc08", "bc01sc09", "bc08sc05",
];
/// ACPI: TPM, Hyper-V's bus, virtio of micro virtual machines.
const ACPI: [&str; 5] = ["MSFT0101", "VMBUS", "VMBus", "MSFT1000", "LNRO0005"];

/// Whether a driver is loaded at once. IDE, SATA and USB are not: each takes a good part of a second to find nothing.
fn on_the_way(modalias: &str) -> bool {
    if let Some(device) = modalias.strip_prefix("pci:") {
        // All of virtio's devices have one driver, to which the class says nothing.
        return device.starts_with("v00001AF4")
            || PCI_CLASSES.iter().any(|class| device.contains(class));
    }
    if let Some(device) = modalias.strip_prefix("acpi:") {
        return ACPI.iter().any(|id| device.contains(id));
    }
    ON_THE_WAY.iter().any(|start| modalias.starts_with(start))
}

impl Devices {
    /// Listens to the kernel, then loads a module for every device below `root`/sys that is on the way to a disk.
    pub fn start(root: &Path, modules: Modules) -> Result<Self, DevicesError> {
        let events = Socket::open().map_err(|source| DevicesError::Events {
            operation: "listen to",
            source,
        })?;
        let root = root.to_owned();
        let mut devices = Self {
            root,
            modules,
            events,
            seen: HashSet::new(),
            deferred: Some(Vec::new()),
            failures: Vec::new(),
            loaded: 0,
        };
        devices.coldplug()?;
        Ok(devices)
    }

    /// Loads the modules of all other devices too, now and from now on. Returns whether there were any.
    pub fn bring_up_all(&mut self) -> bool {
        let before = self.loaded;
        for modalias in self.deferred.take().unwrap_or_default() {
            self.load_now(&modalias);
        }
        self.loaded > before
    }

    /// The modules, for those no device asks for.
    pub fn modules(&mut self) -> &mut Modules {
        &mut self.modules
    }

    /// Modules that were there and could not be loaded; no reason to stop, but to be told.
    #[must_use]
    pub fn failures(&self) -> &[LoadError] {
        &self.failures
    }

    /// How many modules devices have asked for and got.
    #[must_use]
    pub fn loaded(&self) -> usize {
        self.loaded
    }

    /// Handles the events that are waiting. Returns whether there was one that may have brought a device.
    pub fn handle_events(&mut self) -> Result<bool, DevicesError> {
        let mut news = false;
        loop {
            let received = self.events.receive();
            match received.map_err(|source| DevicesError::Events {
                operation: "read",
                source,
            })? {
                Received::Nothing => return Ok(news),
                Received::Overflow => {
                    self.coldplug()?;
                    news = true;
                }
                Received::Event(event) => {
                    news |= !NOISE.contains(&event.subsystem());
                    self.handle(&event);
                }
            }
        }
    }

    /// Waits until `check` finds something. It is asked at once, and again after each batch of events that brought a
    /// device; in between the process sleeps. `wanted` names the thing in the error at the deadline.
    pub fn wait_for<T>(
        &mut self,
        wanted: &str,
        deadline: Instant,
        mut check: impl FnMut(&mut Modules) -> Option<T>,
    ) -> Result<T, DevicesError> {
        let start = Instant::now();
        self.handle_events()?;
        let mut news = true;
        loop {
            if news && let Some(found) = check(&mut self.modules) {
                return Ok(found);
            }
            let failed = |source| DevicesError::Events {
                operation: "wait for",
                source,
            };
            if !self.events.wait(deadline).map_err(failed)? {
                let seen = self.describe();
                return Err(DevicesError::Deadline {
                    wanted: wanted.to_owned(),
                    seen,
                    waited: start.elapsed(),
                });
            }
            news = self.handle_events()?;
        }
    }

    /// Waits at most `silence` for events that may have brought a device. `false`: the kernel was silent all the time.
    pub fn wait_quietly(&mut self, silence: Duration) -> Result<bool, DevicesError> {
        let deadline = Instant::now() + silence;
        let failed = |source| DevicesError::Events {
            operation: "wait for",
            source,
        };
        while self.events.wait(deadline).map_err(failed)? {
            if self.handle_events()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What there is: disks, and modules that failed.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = disks::describe(&self.root);
        for failure in &self.failures {
            text.push_str("; ");
            text.push_str(&failure.to_string());
        }
        text
    }

    fn handle(&mut self, event: &Uevent) {
        if event.action() != "remove"
            && let Some(modalias) = event.modalias()
        {
            self.load(modalias);
        }
    }

    /// A device's modalias is kept at its bus; the few buses have far fewer directories than /sys/devices, which is
    /// mostly about power, interrupts and the like. The processor has no place at a bus: its ciphers are loaded by those
    /// who use them.
    fn coldplug(&mut self) -> Result<(), DevicesError> {
        let buses = self.root.join("sys/bus");
        for bus in entries(&buses)? {
            for device in entries(&bus.join("devices"))? {
                self.load_file(&device.join("modalias"));
            }
        }
        Ok(())
    }

    fn load_file(&mut self, path: &Path) {
        if let Ok(text) = fs::read_to_string(path) {
            self.load(text.trim_end());
        }
    }

    fn load(&mut self, modalias: &str) {
        if modalias.is_empty() || !self.seen.insert(modalias.to_owned()) {
            return;
        }
        match &mut self.deferred {
            Some(deferred) if !on_the_way(modalias) => deferred.push(modalias.to_owned()),
            _ => self.load_now(modalias),
        }
    }

    fn load_now(&mut self, modalias: &str) {
        for result in self.modules.load_alias(modalias) {
            match result {
                Ok(Load::Loaded) => self.loaded += 1,
                Ok(_) => {}
                Err(failure) => self.failures.push(failure),
            }
        }
    }
}

/// What is in a directory, in a fixed order; nothing if there is none.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, DevicesError> {
    let failed = |source| DevicesError::Read {
        path: directory.to_owned(),
        source,
    };
    let list = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in list {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::on_the_way;

    #[test]
    fn what_is_on_the_way_to_a_disk() {
        for (modalias, expected) in [
            ("virtio:d00000002v00001AF4", true),
            ("virtio:d00000004v00001AF4", false), // random numbers
            (
                "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc80i00",
                true,
            ),
            (
                "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02",
                true,
            ), // NVMe
            (
                "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01",
                false,
            ), // AHCI
            (
                "pci:v00001B36d0000000Dsv00001AF4sd00001100bc0Csc03i30",
                false,
            ), // USB
            ("scsi:t-0x00", true),
            ("acpi:MSFT0101:", true),
            ("acpi:QEMU0002:", false),
            ("usb:v13FDp3940d0209dc00dsc00dp00ic08isc06ip50in00", false),
        ] {
            assert_eq!(on_the_way(modalias), expected, "{modalias}");
        }
    }
}
