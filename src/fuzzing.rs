//! What the fuzz targets in `fuzz/` and `benches/micro.rs` reach beyond the public part of this crate. Exists with the feature `fuzzing`
//! only.

use std::{ffi::OsString, path::PathBuf};

use crate::{config, gateway::spool, nsq::nsqlookupd, rocketmq::group, rocketmq::route, transfer::undrained};
pub use crate::{
    gateway::lane::gather,
    rocketmq::{
        compression::{Compressor, MAX_DECOMPRESSED_BYTES, decompress},
        message::send_body,
    },
};

/// Reads a configuration file for `nsqbridge run`; whether it may run.
#[must_use]
pub fn configuration(text: &str) -> bool {
    let arguments = ["nsqbridge", "run"].map(OsString::from).into();
    text.parse().is_ok_and(|file| config::with_file(arguments, Some((file, PathBuf::from("file")))).is_ok())
}

/// Reads a nsqlookupd's answer; the nodes it lists.
#[must_use]
pub fn nodes(answer: &[u8]) -> usize {
    nsqlookupd::read_nodes(answer).map_or(0, |nodes| nodes.len())
}

/// Reads a name server's route; the queues in it.
#[must_use]
pub fn queues(answer: &[u8]) -> usize {
    route::decode("t", answer).map_or(0, |route| route.read_queues.len() + route.write_queues.len())
}

/// Reads a broker's answer about a group; the members or queues it names.
#[must_use]
pub fn of_group(answer: &[u8]) -> usize {
    group::named(answer)
}

/// Reads a record of what nsqd may still lose, and writes it again.
#[must_use]
pub fn undrained(record: &[u8]) -> Option<Vec<u8>> {
    undrained::rewritten(record)
}

/// Reads the bytes of a spool's file to their end; how many bytes were messages, and how many damage.
#[must_use]
pub fn spool(file: &[u8]) -> (usize, usize) {
    spool::scan(file)
}

/// Reads a spooled message whose checksums are right, and writes it again.
#[must_use]
pub fn spooled(payload: &[u8]) -> Option<Vec<u8>> {
    spool::rewritten(payload)
}
