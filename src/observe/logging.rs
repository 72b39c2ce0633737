//! Logs: to standard error, for people or as JSON. No message body is ever logged.

use std::{
    io::IsTerminal,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::SubscriberExt,
    reload::{self, Handle},
    util::SubscriberInitExt,
};

static FILTER: OnceLock<(Handle<Targets, Registry>, Mutex<LevelFilter>)> = OnceLock::new();

/// Sets logging up for the process.
pub fn start(level: LevelFilter, json: bool) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(level > LevelFilter::INFO);
    let lines = if json { lines.json().boxed() } else { lines.boxed() };
    let (filter, handle) = reload::Layer::new(targets(level));
    let _ = FILTER.set((handle, Mutex::new(level)));
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// What libraries say below a warning is of use to nobody who runs this.
fn targets(level: LevelFilter) -> Targets {
    Targets::new().with_default(LevelFilter::WARN.min(level)).with_target(env!("CARGO_CRATE_NAME"), level)
}

/// How important a line must be to be logged.
#[must_use]
pub fn level() -> LevelFilter {
    FILTER.get().map_or(LevelFilter::INFO, |(_, level)| *level.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Logs what is at least this important from now on.
pub fn set_level(level: LevelFilter) {
    let Some((handle, current)) = FILTER.get() else { return };
    if handle.reload(targets(level)).is_ok() {
        *current.lock().unwrap_or_else(PoisonError::into_inner) = level;
    }
}

/// Lets one of many like lines through each second.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    /// Whether to log now, and how many lines were left out since the last.
    pub fn pass(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            *left_out += 1;
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(left_out))
    }
}
