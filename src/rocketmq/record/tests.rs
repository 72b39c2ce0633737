use proptest::prelude::*;

use super::*;
use crate::rocketmq::compression::tests::{ALL, compress};
use crate::rocketmq::properties::PropertiesBuilder;

fn sample() -> StoredMessage {
    StoredMessage {
        topic: "orders".into(),
        queue_id: 3,
        queue_offset: 17,
        physical_offset: 4_711,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1_700_000_000_000,
        born_host: "10.0.0.1:4321".parse().unwrap(),
        store_timestamp: 1_700_000_000_005,
        store_host: "10.0.0.2:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: Bytes::from_static(b"the body"),
        properties: PropertiesBuilder::new().keys("k").unwrap().build().unwrap(),
    }
}

fn encode(messages: &[StoredMessage]) -> BytesMut {
    let mut buf = BytesMut::new();
    for message in messages {
        encode_stored(&mut buf, message);
    }
    buf
}

fn decode(bytes: impl Into<Bytes>) -> Vec<Result<StoredMessage, RecordError>> {
    decode_records(bytes.into()).collect()
}

/// Decodes a single record that must fail.
fn problem(bytes: BytesMut) -> RecordError {
    let mut decoded = decode(bytes);
    assert_eq!(decoded.len(), 1);
    decoded.remove(0).unwrap_err()
}

/// Where the fields of [`sample`] lie.
mod at {
    pub(super) const TOTAL: usize = 0;
    pub(super) const MAGIC: usize = 4;
    pub(super) const SYS_FLAG: usize = 36;
    pub(super) const BORN_PORT: usize = 52;
    pub(super) const BODY_LEN: usize = 84;
    pub(super) const BODY: usize = 88;
    pub(super) const TOPIC: usize = 97;
    pub(super) const PROPERTIES_LEN: usize = 103;
}

/// The sample with some of its bytes overwritten.
fn damaged(at: usize, bytes: &[u8]) -> BytesMut {
    let mut record = encode(&[sample()]);
    record[at..at + bytes.len()].copy_from_slice(bytes);
    record
}

#[test]
fn a_record_cut_anywhere_is_an_error() {
    let whole = encode(&[sample()]);
    for end in 1..whole.len() {
        let error = problem(BytesMut::from(&whole[..end]));
        assert!(matches!(error.problem, RecordProblem::Truncated { .. }), "{end}: {error}");
        assert_eq!(error.queue_offset, (end >= 28).then_some(17), "{end}");
    }
}

#[test]
fn a_flipped_body_byte_is_found_and_the_error_names_the_place() {
    let (before, after) = (StoredMessage { queue_offset: 16, ..sample() }, sample());
    let mut pulled = encode(std::slice::from_ref(&before));
    let mut bad = encode(&[sample()]);
    bad[at::BODY] ^= 1;
    pulled.unsplit(bad);
    pulled.unsplit(encode(&[after]));
    let decoded = decode(pulled);
    assert_eq!(decoded.len(), 2, "nothing is given out after the error");
    assert_eq!(decoded[0], Ok(before));
    let error = decoded[1].clone().unwrap_err();
    assert!(matches!(error.problem, RecordProblem::Crc { .. }));
    assert_eq!((error.queue_id, error.queue_offset, error.physical_offset), (Some(3), Some(17), Some(4_711)));
    let text = error.to_string();
    assert!(text.starts_with(
        "the record of queue 3 at offset 17 (commit log 4711) cannot be read: its body has checksum"
    ));
}

#[test]
fn every_damage_has_its_name() {
    let cases: [(usize, &[u8], RecordProblem); 11] = [
        (at::TOTAL, &[0xFF; 4], RecordProblem::NegativeLength { part: "total size", length: -1 }),
        (at::TOTAL, &[0, 0, 0, 5], RecordProblem::Truncated { needed: 4, left: 1 }),
        (at::MAGIC, &MAGIC_BLANK.to_be_bytes(), RecordProblem::EndOfFile),
        (at::MAGIC, &[0; 4], RecordProblem::Magic(0)),
        (at::SYS_FLAG, &[0, 0, 0, 0x80], RecordProblem::InnerBatch { sys_flag: 0x80 }),
        (at::SYS_FLAG, &[0, 0, 0, 0x40], RecordProblem::InnerBatch { sys_flag: 0x40 }),
        (at::SYS_FLAG, &[0, 0, 5, 1], RecordProblem::UnknownCompressor(5)),
        (at::BORN_PORT, &[0, 1, 0, 0], RecordProblem::Port(65_536)),
        (
            at::BODY_LEN,
            &[0x80, 0, 0, 0],
            RecordProblem::NegativeLength { part: "body", length: i32::MIN.into() },
        ),
        (at::TOPIC, &[0xFF], RecordProblem::Topic),
        (
            at::PROPERTIES_LEN,
            &[0x80, 0],
            RecordProblem::NegativeLength { part: "properties", length: -32_768 },
        ),
    ];
    for (at, bytes, expected) in cases {
        assert_eq!(problem(damaged(at, bytes)).problem, expected);
    }
    let fewer_properties = damaged(at::PROPERTIES_LEN, &[0, 5]);
    let total = fewer_properties.len();
    assert_eq!(problem(fewer_properties).problem, RecordProblem::TotalSize { total, unread: 2 });
}

#[test]
fn a_place_is_named_only_where_there_is_one() {
    let error = problem(damaged(at::MAGIC, &[0; 4]));
    assert_eq!((error.queue_id, error.queue_offset, error.physical_offset), (None, None, None));
    assert_eq!(
        error.to_string(),
        "a record without a legible place cannot be read: its magic number is 0, not that of a message"
    );
}

#[test]
fn compressed_bodies_come_out_plain_and_the_flag_says_so() {
    let body = b"again and again and again and again".repeat(20);
    for compressor in ALL {
        let number = ALL.iter().position(|one| *one == compressor).unwrap() as i32;
        let sys_flag = [0x300, 0x100, 0x200][number as usize];
        let stored =
            StoredMessage { body: compress(compressor, &body).into(), sys_flag: sys_flag | 1, ..sample() };
        let plain = StoredMessage { body: body.clone().into(), sys_flag, ..sample() };
        assert_eq!(decode(encode(&[stored])), [Ok(plain)], "{compressor:?}");
    }
}

#[test]
fn a_body_that_is_not_what_its_flag_says_is_refused() {
    let error = problem(encode(&[StoredMessage { sys_flag: 1, ..sample() }]));
    assert!(matches!(error.problem, RecordProblem::Body(DecompressError::Corrupt { .. })), "{error}");
    let empty = StoredMessage { body: Bytes::new(), sys_flag: 1, ..sample() };
    let plain = StoredMessage { sys_flag: 0, ..empty.clone() };
    assert_eq!(decode(encode(&[empty])), [Ok(plain)]);
}

#[test]
fn a_bomb_is_refused() {
    let bomb = compress(ALL[0], &vec![0; MAX_DECOMPRESSED_BYTES + 1]);
    let error = problem(encode(&[StoredMessage { body: bomb.into(), sys_flag: 1, ..sample() }]));
    let limit = MAX_DECOMPRESSED_BYTES;
    assert_eq!(error.problem, RecordProblem::Body(DecompressError::TooLarge { limit }));
}

#[test]
fn an_uncompressed_body_is_cut_from_the_pulled_buffer() {
    let pulled = encode(&[sample()]).freeze();
    let body = decode(pulled.clone()).remove(0).unwrap().body;
    assert!(pulled.as_ptr_range().contains(&body.as_ptr()));
}

#[test]
fn a_batch_record_is_as_long_as_announced_and_laid_out_as_java_reads_it() {
    let properties = PropertiesBuilder::new().tag("t").unwrap().build().unwrap();
    let mut buf = BytesMut::new();
    encode_batch_record(&mut buf, 7, b"ab", properties.encoded());
    assert_eq!(buf.len(), batch_record_len(2, properties.encoded().len()));
    assert_eq!(buf.as_ref(), b"\0\0\0\x1F\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\x02ab\0\x07TAGS\x01t\x02",);
}

/// Sys flag and record, made by the Java client 5.5.0 with its own compressors (`MessageDecoder.encode`).
const FROM_JAVA: [(i32, &str); 6] = [
    (
        0,
        "000000A0DAA320A700679FC7000000030000000700000000000000110000000000001267000000000000018B \
         CFE568000A000001000010E10000018BCFE568050A00000200002A9F00000002000000000000000900000037 \
         616761696E20616E6420616761696E20616E6420616761696E20616E6420616761696E20616E642061676169 \
         6E20616E6420616761696E066F726465727300087573657201C3BC02",
    ),
    (
        1,
        "0000007EDAA320A75CDC9F49000000030000000700000000000000110000000000001267000000010000018B \
         CFE568000A000001000010E10000018BCFE568050A00000200002A9F00000002000000000000000900000015 \
         785E4B4C4FCCCC5348CC4B5148248505001A821340066F726465727300087573657201C3BC02",
    ),
    (
        0x101,
        "0000008CDAA320A751BC8142000000030000000700000000000000110000000000001267000001010000018B \
         CFE568000A000001000010E10000018BCFE568050A00000200002A9F00000002000000000000000900000023 \
         04224D1860707314000000AF616761696E20616E64200A001550616761696E00000000066F72646572730008 \
         7573657201C3BC02",
    ),
    (
        0x201,
        "00000085DAA320A73BB84299000000030000000700000000000000110000000000001267000002010000018B \
         CFE568000A000001000010E10000018BCFE568050A00000200002A9F0000000200000000000000090000001C \
         28B52FFD005884000050616761696E20616E64200100D62C48010000066F726465727300087573657201C3BC \
         02",
    ),
    (
        0x301,
        "0000007EDAA320A75CDC9F49000000030000000700000000000000110000000000001267000003010000018B \
         CFE568000A000001000010E10000018BCFE568050A00000200002A9F00000002000000000000000900000015 \
         785E4B4C4FCCCC5348CC4B5148248505001A821340066F726465727300087573657201C3BC02",
    ),
    (
        0x30,
        "000000B8DAA320A700679FC7000000030000000700000000000000110000000000001267000000300000018B \
         CFE5680020010DB8000000000000000000000001000010E10000018BCFE5680520010DB80000000000000000 \
         0000000200002A9F00000002000000000000000900000037616761696E20616E6420616761696E20616E6420 \
         616761696E20616E6420616761696E20616E6420616761696E20616E6420616761696E066F72646572730008 \
         7573657201C3BC02",
    ),
];

#[test]
fn records_that_java_encoded_are_read_and_encoded_alike() {
    for (sys_flag, hex) in FROM_JAVA {
        let digits = hex.replace(' ', "");
        let bytes: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        let hosts = if sys_flag == 0x30 {
            ["[2001:db8::1]:4321", "[2001:db8::2]:10911"]
        } else {
            ["10.0.0.1:4321", "10.0.0.2:10911"]
        };
        let expected = StoredMessage {
            flag: 7,
            sys_flag: sys_flag & !COMPRESSED,
            born_host: hosts[0].parse().unwrap(),
            store_host: hosts[1].parse().unwrap(),
            reconsume_times: 2,
            prepared_transaction_offset: 9,
            body: Bytes::from_static(b"again and again and again and again and again and again"),
            properties: PropertiesBuilder::new().user("user", "ü").unwrap().build().unwrap(),
            ..sample()
        };
        if sys_flag & COMPRESSED == 0 {
            assert_eq!(encode(std::slice::from_ref(&expected)), bytes);
        }
        assert_eq!(decode(bytes), [Ok(expected)], "{sys_flag:#x}");
    }
}

fn any_message() -> impl Strategy<Value = StoredMessage> {
    let any_host = || (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    (
        ("[%|a-zA-Z0-9_-]{0,140}", any::<(i32, i64, i64)>(), any::<i32>(), any::<i32>()),
        (any::<i64>(), any_host(), any::<i64>(), any_host(), any::<i32>(), any::<i64>()),
        proptest::collection::vec(any::<u8>(), 0..50),
        proptest::collection::vec(any::<u8>(), 0..50),
    )
        .prop_map(|(identity, history, body, properties)| {
            let (topic, (queue_id, queue_offset, physical_offset), flag, sys_flag) = identity;
            let (born_timestamp, born_host, store_timestamp, store_host, reconsume_times, prepared) = history;
            let v6_bits = i32::from(born_host.is_ipv6()) << 4 | i32::from(store_host.is_ipv6()) << 5;
            StoredMessage {
                topic: topic.into(),
                queue_id,
                queue_offset,
                physical_offset,
                flag,
                sys_flag: sys_flag & !0b1111_0001 | v6_bits,
                born_timestamp,
                born_host,
                store_timestamp,
                store_host,
                reconsume_times,
                prepared_transaction_offset: prepared,
                body: body.into(),
                properties: Properties::from_encoded(properties.into()),
            }
        })
}

proptest! {
    #[test]
    fn what_is_stored_is_read(messages in proptest::collection::vec(any_message(), 0..4)) {
        let decoded = decode(encode(&messages));
        prop_assert_eq!(decoded, messages.into_iter().map(Ok).collect::<Vec<_>>());
    }

    #[test]
    fn no_damage_panics_and_every_error_is_the_last_item(
        messages in proptest::collection::vec(any_message(), 1..3),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = encode(&messages);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let decoded = decode(bytes);
        prop_assert!(decoded.iter().rev().skip(1).all(Result::is_ok));
    }

    #[test]
    fn any_bytes_are_records_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        prop_assert!(!decode(bytes).is_empty());
    }
}
