//! Logs: to standard error, for people or as JSON. No message body is ever logged.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Sets logging up for the process.
pub fn start(level: LevelFilter, json: bool) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(level > LevelFilter::INFO);
    let lines = if json { lines.json().boxed() } else { lines.boxed() };
    // What libraries say below a warning is of use to nobody who runs this.
    let ours = tracing_subscriber::filter::Targets::new()
        .with_default(LevelFilter::WARN.min(level))
        .with_target(env!("CARGO_CRATE_NAME"), level);
    tracing_subscriber::registry().with(lines).with(ours).init();
}
