//! The gateway: nsqd's HTTP API for producers, on RocketMQ.
//!
//! ```text
//! server     sockets, connections, draining
//!   routes     method and path → a closed set of routes
//!     body       reading requests, and leaving them unread
//!     handlers   the checks nsqd makes, in its order
//!       publish    ids, batches, RocketMQ
//!   replies    every answer, in one table
//! ```
//!
//! What it promises: `OK` only when RocketMQ has answered `SEND_OK` for every message of the request; an unmodified
//! producer sees nsqd's own answers to everything else it does. Once publishing has begun, a producer that hangs up cancels nothing.

mod body;
mod handlers;
pub mod publish;
mod replies;
mod routes;
mod server;

use std::time::Duration;

pub use self::server::serve;

/// nsqd's limits, under nsqd's names.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The largest message, in bytes.
    pub max_msg_size: usize,
    /// The largest body of `/mpub`, in bytes.
    pub max_body_size: usize,
    /// The longest `defer`.
    pub max_req_timeout: Duration,
}
