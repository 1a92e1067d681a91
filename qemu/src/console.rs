//! The serial console of one boot: kept whole in a log file, cut into lines, searched for markers.
//!
//! Owns the one primitive that every scenario is made of, [`Console::wait_for`]. Invariant: a line is judged once, in
//! the order it came, so that "first A, then B" is two calls; a marker that is asked for wins over the crash detector.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result, file};

/// Console lines after which nothing good can follow: the guest's kernel crashed, PID 1 died, or the firmware found
/// nothing it could start.
const CRASHES: &[&str] = &[
    "Kernel panic",
    "BUG: ",
    "kernel BUG at",
    "Oops: ",
    "general protection fault",
    "double fault",
    "stack segment:",
    "Unable to mount root fs",
    "UEFI Interactive Shell",
    "No bootable option",
];
/// How many lines an error shows.
const TAIL: usize = 40;
/// A line without an end is judged after this silence: prompts have no line end.
const SILENCE: Duration = Duration::from_millis(400);
/// A crash report is let run on for this long, so that the log tells why.
const CRASH_GRACE: Duration = Duration::from_secs(2);

/// A marker that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Index into the markers that were asked for.
    pub which: usize,
    /// The whole line, escape sequences removed.
    pub line: String,
}

/// Where a live copy of the console goes.
pub type Echo = Box<dyn Write + Send>;

#[derive(Default)]
struct Text {
    lines: Vec<String>,
    /// The line that has not ended yet.
    pending: String,
    last_byte: Option<Instant>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    text: Mutex<Text>,
    news: Condvar,
}

impl Shared {
    fn text(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The console of one boot.
pub struct Console {
    shared: Arc<Shared>,
    /// Index of the first line that no wait has judged yet.
    next: usize,
    log: PathBuf,
    reader: Option<JoinHandle<()>>,
}

impl Console {
    /// Starts to read `source` into the file `log`, and into `echo` line by line.
    pub fn start(
        source: impl Read + Send + 'static,
        log: &Path,
        echo: Option<Echo>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let sink = File::create(log).map_err(file("create", log))?;
        let theirs = Arc::clone(&shared);
        let reader = std::thread::Builder::new()
            .name("console".into())
            .spawn(move || pump(source, sink, echo, &theirs))
            .map_err(|source| Error::Start {
                program: "console thread".into(),
                source,
            })?;
        Ok(Self {
            shared,
            next: 0,
            log: log.to_path_buf(),
            reader: Some(reader),
        })
    }

    /// Waits until a line that contains one of `markers` comes. Lines before it are passed over.
    pub fn wait_for(&mut self, markers: &[&str], deadline: Duration) -> Result<Seen> {
        let started = Instant::now();
        let shared = Arc::clone(&self.shared);
        let mut text = shared.text();
        loop {
            while let Some(line) = text.lines.get(self.next) {
                self.next += 1;
                if let Some(which) = position(markers, line) {
                    return Ok(Seen {
                        which,
                        line: line.clone(),
                    });
                }
                if is_crash(line) {
                    let line = line.clone();
                    drop(text);
                    return self.crashed(markers, line);
                }
            }
            let quiet = text.last_byte.is_some_and(|at| at.elapsed() >= SILENCE);
            if quiet && let Some(which) = position(markers, &text.pending) {
                let line = std::mem::take(&mut text.pending);
                text.lines.push(line.clone());
                self.next += 1;
                return Ok(Seen { which, line });
            }
            let (markers, tail) = (owned(markers), || tail_of(&text));
            if text.ended {
                return Err(Error::Stopped {
                    markers,
                    tail: tail(),
                    log: self.log.clone(),
                });
            }
            let Some(left) = deadline.checked_sub(started.elapsed()) else {
                return Err(Error::Timeout {
                    markers,
                    deadline,
                    tail: tail(),
                    log: self.log.clone(),
                });
            };
            let pause = if text.pending.is_empty() {
                left
            } else {
                left.min(SILENCE)
            };
            text = shared
                .news
                .wait_timeout(text, pause)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the end of the stream: the machine is off. `false` if it is not within `deadline`.
    #[must_use]
    pub fn wait_end(&mut self, deadline: Duration) -> bool {
        let text = self.shared.text();
        let waited = self
            .shared
            .news
            .wait_timeout_while(text, deadline, |text| !text.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// All lines so far, in order; judged or not.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.shared.text().lines.clone()
    }

    /// The last lines, for error messages.
    #[must_use]
    pub fn tail(&self) -> String {
        tail_of(&self.shared.text())
    }

    /// The file with everything.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Waits for the end of the stream: call it once the machine is off.
    pub fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            // A panic in the pump can only mean that lines are missing, which the caller's waits then report.
            drop(reader.join());
        }
    }

    /// A crash was seen. If a marker follows in its wake it counts, else the crash is the news.
    fn crashed(&mut self, markers: &[&str], line: String) -> Result<Seen> {
        let until = Instant::now() + CRASH_GRACE;
        let shared = Arc::clone(&self.shared);
        let mut text = shared.text();
        loop {
            while let Some(later) = text.lines.get(self.next) {
                self.next += 1;
                if let Some(which) = position(markers, later) {
                    return Ok(Seen {
                        which,
                        line: later.clone(),
                    });
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if text.ended || left.is_zero() {
                return Err(Error::Crashed {
                    line,
                    tail: tail_of(&text),
                    log: self.log.clone(),
                });
            }
            text = shared
                .news
                .wait_timeout(text, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// A lockup is a busy host's doing: the guest's clock ran on while its CPU did not.
fn is_crash(line: &str) -> bool {
    position(CRASHES, line).is_some() && !line.contains("lockup")
}

fn position(markers: &[&str], line: &str) -> Option<usize> {
    markers.iter().position(|marker| line.contains(marker))
}

fn owned(markers: &[&str]) -> Vec<String> {
    markers.iter().map(ToString::to_string).collect()
}

fn tail_of(text: &Text) -> String {
    let from = text.lines.len().saturating_sub(TAIL);
    let mut shown: Vec<&str> = text.lines.iter().skip(from).map(String::as_str).collect();
    if !text.pending.is_empty() {
        shown.push(&text.pending);
    }
    shown.iter().map(|line| format!("  | {line}\n")).collect()
}

/// Reads until the end. A log or echo that cannot be written does not stop the machine: the lines count.
fn pump(mut source: impl Read, mut log: File, mut echo: Option<Echo>, shared: &Shared) {
    let mut buffer = [0u8; 4096];
    let mut cleaner = Cleaner::default();
    loop {
        let count = match source.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if log.write_all(bytes).is_err() {
            shared
                .text()
                .lines
                .push("(the console log could not be written)".into());
        }
        let cleaned = cleaner.clean(bytes);
        if let Some(sink) = &mut echo
            && sink
                .write_all(cleaned.as_bytes())
                .and_then(|()| sink.flush())
                .is_err()
        {
            echo = None;
        }
        let mut text = shared.text();
        text.last_byte = Some(Instant::now());
        for part in cleaned.split_inclusive('\n') {
            text.pending.push_str(part.trim_end_matches('\n'));
            if part.ends_with('\n') {
                let line = std::mem::take(&mut text.pending);
                text.lines.push(line);
            }
        }
        if count == 0 {
            let line = std::mem::take(&mut text.pending);
            if !line.is_empty() {
                text.lines.push(line);
            }
            text.ended = true;
            shared.news.notify_all();
            return;
        }
        shared.news.notify_all();
    }
}

/// Takes terminal control out of a byte stream: firmware repaints the screen, which would tear lines and markers.
#[derive(Default)]
struct Cleaner {
    state: Escape,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Escape {
    #[default]
    Text,
    /// After ESC.
    Begun,
    /// In `ESC [ ...`, up to its final byte.
    Sequence,
}

impl Cleaner {
    fn clean(&mut self, bytes: &[u8]) -> String {
        let mut kept = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (Escape::Text, 0x1b) => Escape::Begun,
                (Escape::Text, b'\n' | b'\t' | 0x20..) => {
                    kept.push(byte);
                    Escape::Text
                }
                (Escape::Begun, b'[') => Escape::Sequence,
                (Escape::Sequence, 0x20..=0x3f) => Escape::Sequence,
                _ => Escape::Text,
            };
        }
        String::from_utf8_lossy(&kept).into_owned()
    }
}

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;
