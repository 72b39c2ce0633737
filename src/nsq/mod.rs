//! NSQ: its names, its HTTP words, and clients of nsqd and nsqlookupd. Knows nothing of what it is bridged to.

pub mod address;
pub mod clients;
pub mod finisher;
pub mod frames;
pub mod mpub;
pub mod names;
pub mod nsqd;
pub mod nsqlookupd;
pub mod query;
pub mod tcp;
