//! Real RocketMQ and NSQ servers on loopback, for tests, benches and the demo.
//!
//! A fake broker only proves what its author believed. This crate therefore fetches the published servers at pinned
//! versions, starts them on free ports in folders of their own, lets a test break them, and leaves nothing behind.
//!
//! ```text
//!   versions ──▶ fetch ──▶ .brokers/            jars and programs, fetched once
//!                            │
//!   ports, folder ──▶ server ┴─▶ process ──▶ java, nsqd, …    (die with the process that started them)
//!                       ▲
//!        rocketmq, nsq ─┴─▶ rig                 a whole cluster in one call
//! ```
//!
//! Promises:
//! - A server that `start` returned is ready: it answers, and name servers that answer know it.
//! - No process outlives the one that started it, however that one ends; see [`process`].
//! - Two test processes never choose the same port, not even while a server is stopped; see [`ports`].
//! - Servers are told to listen on loopback only. RocketMQ 4.9 cannot be told: its ports are open on every interface.
//! - Nothing is written outside `.brokers/`, the system's temporary folder and the caches of Maven and Go.
//!
//! Everything blocks. Asynchronous tests call it from a blocking task.
//!
//! ```no_run
//! use nsqbridge_brokers::{Line, Rig, RigOptions, shared};
//!
//! let rig = shared(Line::V5); // one cluster for all tests of this process: do not stop its servers
//! println!("name server at {}", rig.name_server.addr());
//!
//! let own = Rig::start(Line::V4, &RigOptions::default())?; // one to break
//! own.brokers[0].kill()?;
//! own.brokers[0].start_again()?;
//! # Ok::<(), nsqbridge_brokers::Error>(())
//! ```

mod error;
pub mod fetch;
mod folder;
pub mod http;
mod java;
pub mod nsq;
mod options;
pub mod ports;
pub mod process;
mod progress;
pub mod proxy;
pub mod rig;
pub mod rocketmq;
mod route;
mod server;
pub mod shipped;
pub mod tools;
pub mod versions;

pub use error::{Error, Result};
pub use nsq::{Nsqadmin, Nsqd, NsqdOptions, Nsqlookupd};
pub use proxy::{Flow, Proxy, Side};
pub use rig::{Rig, RigOptions, shared};
pub use rocketmq::{Broker, BrokerOptions, Flush, NameServer, Settings};
pub use server::Server;
pub use versions::Line;
