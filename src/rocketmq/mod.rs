//! RocketMQ.
pub mod compression;
pub mod credentials;
pub mod loose_json;
pub mod message_id;
pub mod properties;
pub mod record;
pub mod unique_key;
