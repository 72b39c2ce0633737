//! RocketMQ.
pub mod compression;
pub mod properties;
