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
    // nsqd's bound: each message takes a size and at least one byte.
    let most = max_body_size.saturating_sub(COUNT_BYTES) / (SIZE_BYTES + 1);
    let count =
        usize::try_from(count).ok().filter(|count| (1..=most).contains(count)).ok_or(BodyError::BadBody)?;
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
/// # Errors
/// [`BodyError::BodyTooBig`] or [`BodyError::MessageTooBig`].
pub fn split_text(body: &Bytes, max_msg_size: usize, max_body_size: usize) -> Result<Vec<Bytes>, BodyError> {
    if body.len() > max_body_size {
        return Err(BodyError::BodyTooBig);
    }
    let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(
            |line| {
                if line.len() > max_msg_size {
                    Err(BodyError::MessageTooBig)
                } else {
                    Ok(body.slice_ref(line))
                }
            },
        )
        .collect()
}
