//! nsqbridge moves a running NSQ installation to Apache RocketMQ: no flag day, no lost message.
//!
//! # The flows
//!
//! ```text
//! publish   producer ─HTTP─▶ gateway::server ─▶ handlers ─▶ publish ─▶ lane ─▶ store ─▶ rocketmq::Producer ─▶ broker
//!              ◀── OK ──────────────────────────────────────────────── SEND_OK ◀────────────────────────────┘
//!           producer ─TCP─▶ gateway::tcp ─▶ publish, and on as above
//!
//! relay     broker ─▶ transfer::read_ahead ─▶ queue ─▶ batch ─▶ deliver ─▶ nsq::tcp ─▶ nsqd
//!              ◀── commit ◀── window ◀──────────────────────────────────── OK ◀──────────┘
//!
//! intake    old producer ─▶ nsqd ─▶ nsq::subscription ─▶ intake::inlet ─▶ store ─▶ rocketmq::Producer ─▶ broker
//!              ◀── FIN ◀───────────────────────────────────────────────────────── SEND_OK ◀─────────┘
//! ```
//!
//! A publish is acknowledged when RocketMQ has answered `SEND_OK`, and not before. An offset is committed when nsqd has answered
//! `OK` to everything below it, and not before. Everything else may be repeated.
//!
//! # Layers
//!
//! Each imports only from those below it:
//!
//! ```text
//! main, run                    the program: builds roles from their settings, runs and drains them; exit codes
//! commands                     what is asked or done once, a file for each of `cli`'s
//! config │ settings            the configuration file; what the words come to, or everything wrong with them
//! cli                          the command line's words
//! migration                    plans, and moves consumers; asks what doctor finds, and relays and intakes as other programs do
//!                              (`transfer::control`, `intake::control`)
//! intake                       a role that asks the relays as other programs do (`transfer::control`)
//! gateway │ transfer │ doctor  the roles; they never name each other
//! audit                        what each hop counts, and whether it adds up
//! mapping                      NSQ's names in RocketMQ, and who gets what: the only module that knows both
//! nsq │ rocketmq               the two sides; they never name each other
//! observe                      logs, metrics, health
//! retry, shutdown, pem,        what everything needs
//!   excerpt, problems, table
//! ```
//!
//! # Invariants, as absences
//!
//! - `rocketmq` holds no word of NSQ; `nsq` holds none of RocketMQ.
//! - `hyper` is named only where HTTP is served: in `gateway` and `observe::admin`; `reqwest` only in `nsq`, `backoff` only in `retry`.
//! - There is no unbounded channel.
//! - No message body is written to a log.
//! - What only turns bytes into values has no `async`: `rocketmq::{command, record, properties, message}`,
//!   `nsq::{mpub, query, frames, deliveries}`, `mapping`, `audit::{sketch, record, reconcile}`; nor has what judges a plan:
//!   `migration::{plan, checks, steps}`. What reads a peer's bytes or a file has a fuzz target in `fuzz/`.
//!
//! `tests/bridge/layers.rs` holds the layers and all of these that a text can show.

pub mod audit;
pub mod cli;
pub mod commands;
pub mod config;
pub mod doctor;
pub mod excerpt;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod gateway;
pub mod intake;
pub mod mapping;
pub mod migration;
pub mod nsq;
pub mod observe;
pub mod pem;
pub mod problems;
pub mod retry;
pub mod rocketmq;
pub mod run;
pub mod settings;
pub mod shutdown;
pub mod table;
pub mod transfer;
