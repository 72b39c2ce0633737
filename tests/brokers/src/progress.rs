//! One line on standard error that says how far a fetch is.
//!
//! Terminals get a line that is rewritten; a log file gets a new line every few seconds. Standard error is written
//! directly, because the test harness captures what `eprintln!` prints and a minute of silence looks like a hang.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// What is done sooner needs no line.
const QUIET: Duration = Duration::from_millis(500);
const EVERY: Duration = Duration::from_secs(4);

pub(crate) struct Progress {
    what: String,
    since: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new(what: String) -> Progress {
        Progress { what, since: Instant::now(), shown: None, terminal: io::stderr().is_terminal() }
    }

    /// Shows the state, if it is time for it.
    pub(crate) fn show(&mut self, so_far: &str) {
        if self.since.elapsed() < QUIET {
            return;
        }
        if self.terminal || self.shown.is_none_or(|shown| shown.elapsed() >= EVERY) {
            self.shown = Some(Instant::now());
            self.write(so_far, if self.terminal { "" } else { "\n" });
        }
    }

    /// Shows the last state.
    pub(crate) fn finish(&mut self, so_far: &str) {
        if self.since.elapsed() >= QUIET {
            self.write(so_far, "\n");
        }
    }

    fn write(&self, so_far: &str, end: &str) {
        // Back to the margin, and clear what a longer line left.
        let start = if self.terminal { "\r\x1b[K" } else { "" };
        let seconds = self.since.elapsed().as_secs();
        let mut stderr = io::stderr().lock();
        // A closed standard error is no reason to stop fetching.
        let _ = write!(stderr, "{start}{} ... {so_far}, {seconds} s{end}", self.what);
        let _ = stderr.flush();
    }
}

pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}
