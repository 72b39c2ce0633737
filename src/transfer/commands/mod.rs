//! What an operator asks of running relays, and of what they have parked.

pub mod parked;
pub mod status;
