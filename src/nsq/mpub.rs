//! The bodies of `/mpub`: text and binary, without I/O.
//!
//! Binary is a count and, for each message, its size and bytes; all numbers are signed 32-bit, big-endian. Text is one
//! message a line. Both are read exactly as nsqd 1.3.0 reads them (`readMPUB`, `doMPUB`), and messages are cut from the
//! body without copying.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of the count before the first message.
pub const COUNT_BYTES: usize = 4;
/// Bytes of the size before each message.
pub const SIZE_BYTES: usize = 4;

/// A body nsqd refuses; named after its error codes, all with status 413.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Text beyond the largest body.
    #[error("BODY_TOO_BIG")]
    BodyTooBig,
    /// A line beyond the largest message.
    #[error("MSG_TOO_BIG")]
    MessageTooBig,
    /// A binary body without a count, or with one that cannot be.
    #[error("BAD_BODY")]
    BadBody,
    /// A binary message without a size, with one that cannot be, or cut short.
    #[error("BAD_MESSAGE")]
    BadMessage,
}

/// Encodes a binary body.
pub fn encode_binary<'a>(bodies: impl ExactSizeIterator<Item = &'a [u8]> + Clone) -> Bytes {
    let len = COUNT_BYTES + bodies.clone().map(|body| SIZE_BYTES + body.len()).sum::<usize>();
    let mut payload = BytesMut::with_capacity(len);
    payload.put_u32(bodies.len() as u32);
    for body in bodies {
        payload.put_u32(body.len() as u32);
        payload.put_slice(body);
    }
    payload.freeze()
}

/// A count nsqd takes: one message at least, and no more than a body of this size can hold with a byte each.
#[must_use]
pub fn legal_count(count: i32, max_body_size: usize) -> Option<usize> {
    let most = max_body_size.saturating_sub(COUNT_BYTES) / (SIZE_BYTES + 1);
    usize::try_from(count).ok().filter(|count| (1..=most).contains(count))
}

/// Reads a binary body. Bytes after the last message are ignored, as nsqd ignores them.
///
/// # Errors
/// [`BodyError::BadBody`] or [`BodyError::BadMessage`].
pub fn decode_binary(
    mut body: Bytes,
    max_msg_size: usize,
    max_body_size: usize,
) -> Result<Vec<Bytes>, BodyError> {
    let count = body.try_get_i32().map_err(|_| BodyError::BadBody)?;
    let count = legal_count(count, max_body_size).ok_or(BodyError::BadBody)?;
    // The count is only a claim: memory is taken as messages are found.
    let mut messages = Vec::with_capacity(count.min(body.len() / (SIZE_BYTES + 1)));
    for _ in 0..count {
        let size = body.try_get_i32().map_err(|_| BodyError::BadMessage)?;
        let size = usize::try_from(size)
            .ok()
            .filter(|size| (1..=max_msg_size.min(body.len())).contains(size))
            .ok_or(BodyError::BadMessage)?;
        messages.push(body.split_to(size));
    }
    Ok(messages)
}

/// Splits a text body at newlines. Only the newline is removed, and empty lines are no messages.
///
/// Faults are found in nsqd's order, line by line: a line that is too big is named before a body that grows too big
/// behind it. Of a body beyond the limit, the first `max_body_size + 1` bytes are enough to judge it.
///
/// # Errors
/// [`BodyError::BodyTooBig`] or [`BodyError::MessageTooBig`].
pub fn split_text(body: &Bytes, max_msg_size: usize, max_body_size: usize) -> Result<Vec<Bytes>, BodyError> {
    let mut messages = Vec::new();
    let mut read = 0;
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        read += line.len();
        if read > max_body_size {
            return Err(BodyError::BodyTooBig);
        }
        let message = line.strip_suffix(b"\n").unwrap_or(line);
        if message.len() > max_msg_size {
            return Err(BodyError::MessageTooBig);
        }
        if !message.is_empty() {
            messages.push(body.slice_ref(message));
        }
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MSG: usize = 8;
    const BODY: usize = 64;

    fn text(body: &[u8]) -> Result<Vec<Bytes>, BodyError> {
        split_text(&Bytes::copy_from_slice(body), MSG, BODY)
    }

    fn binary(words: &[&[u8]]) -> Result<Vec<Bytes>, BodyError> {
        decode_binary(words.concat().into(), MSG, BODY)
    }

    #[test]
    fn text_is_cut_at_newlines_and_nothing_else_is_touched() {
        assert_eq!(text(b"a\nb\r\n\n\n c ").unwrap(), [&b"a"[..], b"b\r", b" c "]);
        assert_eq!(text(b"a\n").unwrap(), [&b"a"[..]], "the last newline ends a message and begins none");
        assert_eq!(text(b"\0\xff").unwrap(), [&b"\0\xff"[..]], "bytes are bytes");
        for nothing in [&b""[..], b"\n", b"\n\n\n"] {
            assert_eq!(text(nothing).unwrap(), [&b""[..]; 0]);
        }
    }

    #[test]
    fn text_beyond_a_limit_is_refused_for_the_first_reason_met() {
        assert_eq!(text(&[b'a'; MSG]).unwrap().len(), 1);
        assert_eq!(text(&[b'a'; MSG + 1]), Err(BodyError::MessageTooBig));
        assert_eq!(text(&[b'\n'; BODY]).unwrap().len(), 0);
        assert_eq!(text(&[b'\n'; BODY + 1]), Err(BodyError::BodyTooBig));
        let long_line_then_long_body = [&[b'a'; MSG + 1][..], &[b'\n'; BODY]].concat();
        assert_eq!(text(&long_line_then_long_body), Err(BodyError::MessageTooBig));
        assert_eq!(text(&[b'a'; BODY + 1]), Err(BodyError::BodyTooBig), "one line that is too big as a body");
    }

    #[test]
    fn binary_faults_have_nsqds_names() {
        let one = 1_i32.to_be_bytes();
        let size = |size: i32| size.to_be_bytes();
        for body in [&b""[..], &[0, 0, 0], &size(0), &size(-1), &size(i32::MIN), &size(13)] {
            assert_eq!(binary(&[body]), Err(BodyError::BadBody), "{body:?}");
        }
        assert_eq!(
            binary(&[&size(12)]),
            Err(BodyError::BadMessage),
            "the most messages this body could hold"
        );
        for message in [&b""[..], &[0, 0], &size(0), &size(-1), &size(9), &[&size(5)[..], b"abcd"].concat()] {
            assert_eq!(binary(&[&one, message]), Err(BodyError::BadMessage), "{message:?}");
        }
        assert_eq!(
            binary(&[&one, &size(9), b"123456789"]),
            Err(BodyError::BadMessage),
            "too big for a message"
        );
        let trailing = binary(&[&one, &size(8), b"12345678", b"ignored"]);
        assert_eq!(trailing.unwrap(), [&b"12345678"[..]]);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_without_a_copy(bodies in vec(vec(any::<u8>(), 1..20), 1..20)) {
            let payload = encode_binary(bodies.iter().map(Vec::as_slice));
            let (first, last) = (payload.as_ptr() as usize, payload.as_ptr() as usize + payload.len());
            let decoded = decode_binary(payload, 1024, 1024).unwrap();
            prop_assert_eq!(&decoded, &bodies);
            prop_assert!(decoded.iter().all(|body| (first..last).contains(&(body.as_ptr() as usize))));
        }

        #[test]
        fn no_body_makes_it_panic_or_yield_an_illegal_message(body in vec(any::<u8>(), 0..200), count in 0_i32..5) {
            let plausible = [&count.to_be_bytes()[..], &body].concat();
            for body in [body, plausible].map(Bytes::from) {
                for messages in [decode_binary(body.clone(), MSG, BODY), split_text(&body, MSG, BODY)] {
                    let legal = |message: &Bytes| (1..=MSG).contains(&message.len());
                    prop_assert!(messages.unwrap_or_default().iter().all(legal));
                }
            }
        }

        #[test]
        fn the_lines_of_a_text_are_its_messages(lines in vec("[^\n]{0,8}", 0..6)) {
            let body = Bytes::from(lines.join("\n"));
            let messages = split_text(&body, 64, 1024).unwrap();
            let expected: Vec<_> = lines.iter().filter(|line| !line.is_empty()).map(String::as_bytes).collect();
            prop_assert_eq!(messages, expected);
        }

        #[test]
        fn the_start_of_a_body_that_is_too_big_is_enough_to_judge_it(body in vec(prop_oneof![Just(b'\n'), any::<u8>()], BODY + 1..200)) {
            let body = Bytes::from(body);
            prop_assert_eq!(split_text(&body.slice(..=BODY), MSG, BODY), split_text(&body, MSG, BODY));
        }
    }
}
