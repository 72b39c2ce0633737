//! What operators see of a running process.

pub mod admin;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod process;
