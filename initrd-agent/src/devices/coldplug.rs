//! Bringing devices up: once for those that are there, then for those the kernel announces.
//!
//! Invariant: the socket is opened before /sys is looked at, so no device is missed; each modalias is looked up once.

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
    failures: Vec<LoadError>,
    loaded: usize,
}

impl Devices {
    /// Listens to the kernel, then loads a module for every device below `root`/sys that has one.
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
            failures: Vec::new(),
            loaded: 0,
        };
        devices.coldplug()?;
        Ok(devices)
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
    /// mostly about power, interrupts and the like. The processor has no place at a bus.
    fn coldplug(&mut self) -> Result<(), DevicesError> {
        self.load_file(&self.root.join("sys/devices/system/cpu/modalias"));
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
