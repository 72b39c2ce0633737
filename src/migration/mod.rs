//! The migration itself: what is there, what is planned, and what stands between.
//!
//! ```text
//! plan     a plan file: which channel becomes which consumer group, under which conditions
//! scan     a running NSQ as an inventory, and as a draft of a plan
//! world    everything a plan is held against, looked at once
//! checks   the world against the plan: findings with stable reasons
//! steps    what carrying the plan out would create and change
//! ```
//!
//! Looking and judging are apart: `scan` and `world` ask brokers and change nothing, the rest are functions of what they saw. What
//! cannot be asked is a finding, and never taken for "nothing there".

pub mod checks;
pub mod plan;
pub mod scan;
pub mod steps;
pub mod world;
