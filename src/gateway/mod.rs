//! The gateway: nsqd's HTTP API for producers, on RocketMQ.
//!
//! ```text
//! server     sockets, connections, draining
//!   protocol   what an HTTP server refuses
//!   routes     method and path → a closed set of routes
//!     body       reading requests, and leaving them unread
//!     handlers   the checks nsqd makes, in its order, for what is published
//!       stamp      what is written on each message
//!       publish    topics, bounds (admission), the way into RocketMQ
//!         lane       what gathers while a batch is on its way
//!         store      one batch after the other, and each caller's outcome
//!     actions    topics and channels          stats, options    what monitoring asks
//!   replies    every answer, in one table
//!   metrics    what is counted             health    whether RocketMQ is there
//! ```
//!
//! What it promises: `OK` only when RocketMQ has answered `SEND_OK` for every message of the request; an unmodified
//! producer sees nsqd's own answers to everything else it does. Once publishing has begun, a producer that hangs up cancels nothing.
//!
//! # Where it differs from nsqd 1.3.0
//!
//! - A raw `#` in a request's target ends it: `/pub?topic=t#ephemeral` publishes to `t`, as it does with any client
//!   that cuts the fragment itself. Escape it as `%23`.
//! - A `defer` so large that nsqd's arithmetic overflows is refused; nsqd takes some of them for small ones.
//! - A binary `/mpub` in chunks is limited to `max_body_size`; nsqd limits only its messages.
//! - A refused request whose body does not come is answered after half a second; nsqd waits for it.
//! - A target beyond 64 KiB is answered 414, and more than a thousand headers 431; nsqd takes a head of 1 MiB.
//! - What cannot be parsed as HTTP/1 is answered 400 without a text, and redirects have no body.

mod actions;
pub mod admission;
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
mod stamp;
mod stats;
mod store;
#[cfg(test)]
mod tests;
pub mod topic;

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
    /// Connections beyond this are closed at once.
    pub max_connections: usize,
    /// How this gateway calls itself to clients, and on each message.
    pub broadcast_address: String,
    /// This machine's name.
    pub hostname: String,
}
