//! The `nsqbridge` program.
fn main() {}
