//! What producers, nsqds and nsqlookupds send.

use bytes::{Bytes, BytesMut};
use nsqbridge::{
    fuzzing,
    nsq::{
        deliveries::Delivered,
        frames::{self, Frame},
        mpub,
        nsqd::{Info, Stats},
        query::{Query, unescape_path},
    },
};

/// Small, so that the fuzzer meets them.
const MAX_MSG: usize = 100;
const MAX_BODY: usize = 1_000;

/// Reads what `Query` reads in the most simple way there is.
fn parameters(query: &str) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let unescape = |text: &str| unescape_path(&text.replace('+', " ")).ok();
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    let pairs = pieces.map(|piece| {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        (!piece.contains(';')).then_some((unescape(name)?, unescape(value)?))
    });
    pairs.collect()
}

pub fn query(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let _ = unescape_path(text);
    let Ok(query) = Query::parse(text) else {
        assert!(text.len() > 64 || parameters(text).is_none(), "refused, and right");
        return;
    };
    let got = query.get("topic");
    // The simple way takes memory this one must not take.
    if text.len() <= 64 {
        let parameters = parameters(text).expect("taken, and wrong");
        let first = parameters.iter().find(|(name, _)| name == b"topic");
        assert_eq!(got, first.map(|(_, value)| String::from_utf8_lossy(value).into_owned()));
    }
}

pub fn mpub_binary(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let Ok(messages) = mpub::decode_binary(body.clone(), MAX_MSG, MAX_BODY) else { return };
    assert!(!messages.is_empty() && messages.iter().all(|message| (1..=MAX_MSG).contains(&message.len())));
    let again = mpub::encode_binary(messages.iter().map(|message| &message[..]));
    assert!(body.starts_with(&again), "what was read is what stood there");
}

pub fn mpub_text(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let judged = mpub::split_text(&body, MAX_MSG, MAX_BODY);
    if body.len() > MAX_BODY {
        assert_eq!(judged, mpub::split_text(&body.slice(..=MAX_BODY), MAX_MSG, MAX_BODY));
    }
    let Ok(messages) = judged else { return };
    assert!(messages.iter().all(|message| (1..=MAX_MSG).contains(&message.len())));
    let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    assert!(lines.eq(messages.iter()));
}

pub fn tcp_commands(data: &[u8]) {
    let whole = fuzzing::commands(data, data.len(), MAX_MSG, MAX_BODY);
    for piece in [1, 7] {
        assert_eq!(
            fuzzing::commands(data, piece, MAX_MSG, MAX_BODY),
            whole,
            "whole and in pieces is the same"
        );
    }
}

pub fn frames(data: &[u8]) {
    let whole = drain(&mut BytesMut::from(data), frames::decode);
    for frame in &whole.0 {
        if let Some(message) = Delivered::decode(frame.data.clone().freeze()) {
            assert!(message.body.len() < frame.data.len());
            let _ = message.id.number();
        }
    }
    // The same bytes as they might come over a socket.
    let mut buffer = BytesMut::new();
    let mut pieces = Vec::new();
    for piece in data.chunks(3) {
        buffer.extend_from_slice(piece);
        match drain(&mut buffer, frames::decode) {
            (frames, None) => pieces.extend(frames),
            (frames, error) => {
                pieces.extend(frames);
                assert_eq!((&pieces, &error), (&whole.0, &whole.1));
                return;
            }
        }
    }
    assert_eq!((pieces, None), whole);
    for Frame { data, .. } in whole.0 {
        assert!(data.len() < frames::MAX_FRAME_BYTES);
    }
}

/// All frames of a buffer, and the error behind them.
pub fn drain<T, E>(
    buffer: &mut BytesMut,
    decode: impl Fn(&mut BytesMut) -> Result<Option<T>, E>,
) -> (Vec<T>, Option<E>) {
    let mut frames = Vec::new();
    loop {
        match decode(buffer) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error)),
        }
    }
}

pub fn nsqd_answers(data: &[u8]) {
    let _ = serde_json::from_slice::<Info>(data);
    let _ = serde_json::from_slice::<Stats>(data);
}

pub fn nsqlookupd_answers(data: &[u8]) {
    let _ = fuzzing::nodes(data);
}
