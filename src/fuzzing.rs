//! What the fuzz targets in `fuzz/` and `benches/micro.rs` reach beyond the public part of this crate. Exists with the feature `fuzzing`
//! only.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use bytes::BytesMut;

use crate::{
    config,
    gateway::{
        spool,
        tcp::commands::{Decoder, Limits},
    },
    nsq::nsqlookupd,
    rocketmq::{group, route},
    transfer::undrained,
};
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

/// Reads a TCP connection's bytes as they come in pieces of `piece` bytes; the commands, and how it ends, in words.
#[must_use]
pub fn commands(
    data: &[u8],
    piece: usize,
    max_msg_size: usize,
    max_body_size: usize,
) -> (Vec<String>, String) {
    let limits = Limits { max_msg_size, max_body_size, max_req_timeout: Duration::from_secs(3_600) };
    let mut decoder = Decoder::new(limits);
    let (mut buffer, mut commands) = (BytesMut::new(), Vec::new());
    for piece in data.chunks(piece.max(1)) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(command)) => commands.push(format!("{command:?}")),
                Ok(None) => break,
                Err(fault) => return (commands, format!("{fault:?}")),
            }
        }
    }
    (commands, format!("{:?}", decoder.cut_off(&buffer)))
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
