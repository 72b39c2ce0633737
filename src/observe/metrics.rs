//! The registry every role adds its metrics to.

use prometheus_client::{metrics::info::Info, registry::Registry};

/// What Prometheus is told the metrics are (OpenMetrics 1.0).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An empty registry; every name in it begins with `nsqbridge_`.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("nsqbridge");
    registry.register(
        "build",
        "The version of this program",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    registry
}

/// The metrics as Prometheus reads them.
///
/// # Errors
/// When a metric cannot be written, which is a fault of this program.
pub fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    Ok(text)
}
