//! RocketMQ.
pub mod properties;
