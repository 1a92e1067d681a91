//! How far it is: one line that renews itself on a terminal, a line every few seconds elsewhere.

use std::io::Write;
use std::time::{Duration, Instant};

const TERMINAL: Duration = Duration::from_millis(200);
const PLAIN: Duration = Duration::from_secs(5);

/// Progress over a known number of bytes.
pub struct Progress {
    out: Box<dyn Write>,
    terminal: bool,
    total: u64,
    done: u64,
    what: String,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    /// Progress to be written to `out`.
    #[must_use]
    pub fn new(out: Box<dyn Write>, terminal: bool) -> Self {
        let (what, started) = (String::new(), Instant::now());
        Self {
            out,
            terminal,
            total: 0,
            done: 0,
            what,
            started,
            shown: None,
        }
    }

    /// The clock starts.
    pub(super) fn start(&mut self, total: u64) {
        (self.total, self.done, self.started, self.shown) = (total, 0, Instant::now(), None);
    }

    /// What comes now.
    pub(super) fn begin(&mut self, what: &str) {
        what.clone_into(&mut self.what);
        self.show(false);
    }

    /// So many bytes more.
    pub(super) fn add(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        self.show(false);
    }

    /// The last line.
    pub(super) fn end(&mut self) {
        if self.total > 0 {
            self.what = "done".to_owned();
            self.show(true);
            if self.terminal {
                self.print("\n");
            }
        }
    }

    fn show(&mut self, always: bool) {
        let every = if self.terminal { TERMINAL } else { PLAIN };
        let due = self
            .shown
            .map_or(self.terminal, |shown| shown.elapsed() >= every);
        if self.shown.is_none() && !self.terminal {
            self.shown = Some(self.started);
        }
        if !(always || due) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = line(self.done, self.total, self.started.elapsed(), &self.what);
        if self.terminal {
            self.print(&format!("\r\x1b[K{line}"));
        } else {
            self.print(&format!("{line}\n"));
        }
    }

    fn print(&mut self, text: &str) {
        // A closed terminal must not stop an installation.
        drop(
            self.out
                .write_all(text.as_bytes())
                .and_then(|()| self.out.flush()),
        );
    }
}

/// Per cent, amount, rate, time left.
fn line(done: u64, total: u64, elapsed: Duration, what: &str) -> String {
    let percent = done
        .saturating_mul(100)
        .checked_div(total)
        .unwrap_or(100)
        .min(100);
    let millis = u64::try_from(elapsed.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    let rate = done.saturating_mul(1000) / millis;
    let left = total.saturating_sub(done).checked_div(rate);
    let mib = |bytes: u64| bytes >> 20;
    let left = match left {
        // The first moments say nothing about the rest.
        Some(seconds) if millis >= 500 => {
            format!(", {}:{:02} left", seconds / 60, seconds % 60)
        }
        _ => String::new(),
    };
    let (done, total, rate) = (mib(done), mib(total), mib(rate));
    format!("{percent:>3} %  {done} of {total} MiB, {rate} MiB/s{left}  {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rate_and_time_left() {
        let mib = 1 << 20;
        assert_eq!(
            line(100 * mib, 400 * mib, Duration::from_secs(2), "usr"),
            " 25 %  100 of 400 MiB, 50 MiB/s, 0:06 left  usr"
        );
        assert_eq!(
            line(0, 400 * mib, Duration::ZERO, "x"),
            "  0 %  0 of 400 MiB, 0 MiB/s  x"
        );
        assert!(line(0, 0, Duration::ZERO, "").starts_with("100 %"));
    }
}
