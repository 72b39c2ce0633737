//! A client for RocketMQ's remoting protocol, for brokers of the 4.9 and 5.x lines alike.
//!
//! Written for programs that must not lose a message, as a library of its own: it knows nothing of what it is used for,
//! holds no global state, and serves several clusters in one process. A [`Cluster`] is the way in.
//!
//! ```text
//!  producer   reader   offsets   group   subscription   admin     what a program does with a cluster
//!      └─────────┴────────┴────────┴──────────┴───────────┘
//!                cluster · route                      connections, name servers, routes
//!                   connection                        requests in flight on one socket
//!   command  record  properties  message  ...         bytes, without I/O
//! ```
//!
//! What it promises, where other clients do not:
//! - a send has one of four outcomes ([`Outcome`]), and only `SEND_OK` is delivered;
//! - a record that cannot be read is an error naming queue and offset ([`reader::Problem`]), never a silent stop;
//! - offsets are committed with an answer and read back ([`offsets::Commit`]);
//! - an offset outside its queue is reported with the queue's bounds ([`reader::Pull::OffsetMoved`]), never adjusted.

pub mod admin;
mod avoidance;
mod cluster;
pub mod codes;
pub mod command;
pub(crate) mod compression;
pub mod connection;
pub mod credentials;
pub mod group;
mod inbound;
pub mod loose_json;
pub mod message;
pub mod message_id;
pub mod offsets;
pub mod outcome;
pub mod producer;
pub mod properties;
pub mod reader;
pub mod record;
pub mod route;
pub mod subscription;
pub mod tls;
pub mod unique_key;

pub use cluster::{BrokerAddresses, Cluster, ClusterConfig, ClusterError, Described};
pub use inbound::Describe;
pub use message::Message;
pub use outcome::Outcome;
pub use producer::Producer;
pub use reader::QueueReader;
pub use route::Queue;
