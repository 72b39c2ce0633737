//! The gateway: nsqd's HTTP API and TCP protocol for producers, on RocketMQ.
//!
//! ```text
//! server     sockets, connections, draining
//!   protocol   what an HTTP server refuses
//!   routes     method and path → a closed set of routes
//!     body       reading requests, and leaving them unread
//!     handlers   the checks nsqd makes, in its order, for what is published
//!       stamp      what is written on each message       share   what is written on some
//!       publish    topics, bounds (admission), the way into RocketMQ
//!         lane       what gathers while batches are on their way
//!         store      batch by batch, and each caller's outcome
//!         spool      this machine's disk, for topics that go there while RocketMQ is away
//!         audited    what is counted of it
//!     actions    topics and channels          stats, options    what monitoring asks
//!   replies    every answer, in one table
//!   tcp        nsqd's TCP protocol: its own commands and words, the same way into RocketMQ
//!   metrics    what is counted             health    whether RocketMQ is there
//! ```
//!
//! What it promises: `OK` only when RocketMQ has answered `SEND_OK` for every message of the request, or the spool has them on the disk
//! where the operator chose that; an unmodified
//! producer sees nsqd's own answers to everything else it does. Once publishing has begun, a producer that hangs up cancels nothing.
//!
//! Where it differs from nsqd 1.3.0, and why, stands in `docs/differences.md`; a test compares the two request by request
//! and holds that table.

mod actions;
pub mod admission;
mod audited;
mod body;
mod handlers;
mod health;
pub mod lane;
pub mod metrics;
mod options;
mod protocol;
pub mod publish;
mod replies;
mod routes;
mod server;
pub mod share;
pub mod spool;
mod stamp;
mod stats;
mod store;
pub(crate) mod tcp;
#[cfg(test)]
mod tests;
pub mod topic;

use std::time::Duration;

pub use self::server::{Listeners, serve};

/// nsqd's limits, under nsqd's names.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The largest message, in bytes.
    pub max_msg_size: usize,
    /// The largest body of `/mpub`, in bytes.
    pub max_body_size: usize,
    /// The longest `defer`.
    pub max_req_timeout: Duration,
    /// How long a body may take to come.
    pub body_timeout: Duration,
    /// Connections beyond this are closed at once.
    pub max_connections: usize,
    /// How this gateway calls itself to clients, and on each message.
    pub broadcast_address: String,
    /// This machine's name.
    pub hostname: String,
}
