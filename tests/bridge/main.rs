//! The bridge as a whole: its parts against real brokers, and against peers that misbehave.
//!
//! One binary, so that the tests that only use brokers can share them.

#![allow(missing_docs, clippy::unwrap_used, reason = "these are tests")]

/// Makes two tests of each function that takes a release line.
macro_rules! on_both_lines {
    ($($test:ident),* $(,)?) => {
        mod on_5_5_0 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(nsqbridge_brokers::Line::V5).await;
            })*
        }

        mod on_4_9_7 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(nsqbridge_brokers::Line::V4).await;
            })*
        }
    };
}

mod admin;
mod audit;
mod bridge;
mod client_faults;
mod config;
mod conformance;
mod doctor;
mod faults;
mod gateway;
mod golden;
mod group_commit;
mod guarded;
mod health;
mod hostile;
mod http_clients;
mod intake;
mod layers;
mod matrix;
mod migration;
mod plans;
mod pressure;
mod program;
mod relay;
mod scripted;
mod share;
mod spool;
mod tcp_producers;
mod transfer;
mod traps;
