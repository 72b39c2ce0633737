//! The bridge as a whole: its parts against real brokers, and against peers that misbehave.
//!
//! One binary, so that the tests that only use brokers can share them.

#![allow(missing_docs, clippy::unwrap_used, reason = "these are tests")]

mod bridge;
mod client_faults;
mod golden;
mod layers;
mod relay;
mod scripted;
