//! What brokers and name servers send.

use bytes::{Buf as _, Bytes, BytesMut};
use nsqbridge::{
    fuzzing::{self, Compressor, MAX_DECOMPRESSED_BYTES, decompress},
    rocketmq::{
        command,
        loose_json::{self, Problem, Value},
        properties::{Properties, PropertiesBuilder},
        record::{RecordProblem, batch_record_len, decode_records, encode_batch_record, encode_stored},
    },
};

use crate::nsq::drain;

/// A body that grows to its bound is copied once on the way.
pub const RECORDS_FIXED: usize = 4 * MAX_DECOMPRESSED_BYTES;
/// Zstandard's window, and LZ4's blocks.
pub const COMPRESSION_FIXED: usize = 32 * 1024 * 1024;

pub fn frames(data: &[u8]) {
    let whole = drain(&mut BytesMut::from(data), command::decode);
    let mut buffer = BytesMut::new();
    let (mut pieces, mut error) = (Vec::new(), None);
    for piece in data.chunks(7) {
        buffer.extend_from_slice(piece);
        let (frames, failed) = drain(&mut buffer, command::decode);
        pieces.extend(frames);
        error = failed;
        if error.is_some() {
            break;
        }
    }
    assert_eq!((&pieces, &error), (&whole.0, &whole.1), "whole and in pieces is the same");
    for command in whole.0 {
        let mut wire = BytesMut::new();
        command::encode(&command, &mut wire);
        assert_eq!(command::decode(&mut wire), Ok(Some(command)));
        assert!(wire.is_empty());
    }
}

pub fn records(data: &[u8]) {
    let mut body = BytesMut::from(data);
    // A checksum is what nobody hits by chance.
    for _ in 0..4 {
        let mut at = 0;
        let mut computed = None;
        for record in decode_records(body.clone().freeze()) {
            match record {
                Ok(_) => {
                    at += body[at..].first_chunk().map_or(0, |total| u32::from_be_bytes(*total) as usize)
                }
                Err(error) => {
                    if let RecordProblem::Crc { computed: right, .. } = error.problem {
                        computed = Some(right);
                    }
                    assert!(error.bytes.len() <= data.len());
                    let _ = error.to_string();
                }
            }
        }
        let Some(computed) = computed else { break };
        body[at + 8..at + 12].copy_from_slice(&computed.to_be_bytes());
    }
    for message in decode_records(body.freeze()).flatten() {
        let mut again = BytesMut::new();
        encode_stored(&mut again, &message);
        let again: Vec<_> = decode_records(again.freeze()).collect();
        assert_eq!(again, [Ok(message)]);
    }
}

pub fn properties(data: &[u8]) {
    let read = Properties::from_encoded(Bytes::copy_from_slice(data));
    let mut builder = PropertiesBuilder::new();
    let mut taken = Vec::new();
    for (name, value) in read.iter() {
        let _ = read.get(&name);
        if let Ok(more) = builder.clone().user(&name, &value) {
            builder = more;
            taken.push((name.into_owned(), value.into_owned()));
        }
        if taken.len() == 20 {
            break;
        }
    }
    let Ok(built) = builder.build() else { return };
    let pairs = built.iter().map(|(name, value)| (name.into_owned(), value.into_owned()));
    assert!(pairs.eq(taken));

    let mut record = BytesMut::new();
    encode_batch_record(&mut record, 7, data, built.encoded());
    assert_eq!(record.len(), batch_record_len(data.len(), built.encoded().len()));
    assert_eq!(record.get_u32() as usize, record.len() + 4);
    record.advance(12);
    assert_eq!(record.get_u32() as usize, data.len());
    assert!(record.starts_with(data));
    record.advance(data.len());
    assert_eq!(record.get_u16() as usize, built.encoded().len());
    assert_eq!(record, built.encoded());
}

pub fn compression(data: &[u8]) {
    const LIMIT: usize = 64 * 1024;
    let Some((first, stream)) = data.split_first() else { return };
    let Ok(compressor) = Compressor::from_sys_flag(i32::from(*first) << 8) else { return };
    if let Ok(body) = decompress(compressor, stream, LIMIT) {
        assert!(body.len() <= LIMIT);
        assert_eq!(
            decompress(compressor, stream, body.len()).as_ref(),
            Ok(&body),
            "its own length is enough"
        );
    }
}

pub fn loose_json(data: &[u8]) {
    let strict = serde_json::from_slice::<serde_json::Value>(data);
    match (loose_json::parse(data), strict) {
        (Ok(loose), strict) => {
            if let Some(loose) = with_text_keys(&loose) {
                assert_eq!(loose, strict.expect("what has text keys only is JSON"));
            }
        }
        (Err(error), Ok(_)) => assert_eq!(error.problem, Problem::TooDeep, "{error}"),
        (Err(error), Err(_)) => assert!(error.position <= data.len()),
    }
}

/// The same as JSON has it; `None` when a key is no text.
fn with_text_keys(value: &Value) -> Option<serde_json::Value> {
    Some(match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(yes) => (*yes).into(),
        Value::Number(number) => number.clone().into(),
        Value::String(text) => text.clone().into(),
        Value::Array(items) => items.iter().map(with_text_keys).collect::<Option<Vec<_>>>()?.into(),
        Value::Object(entries) => {
            let pairs =
                entries.iter().map(|(key, value)| Some((key.as_str()?.to_owned(), with_text_keys(value)?)));
            pairs.collect::<Option<serde_json::Map<_, _>>>()?.into()
        }
    })
}

pub fn routes(data: &[u8]) {
    let _ = fuzzing::queues(data);
}

pub fn group_answers(data: &[u8]) {
    let _ = fuzzing::of_group(data);
}
