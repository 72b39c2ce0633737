//! RocketMQ.
pub mod compression;
pub mod properties;
pub mod record;
