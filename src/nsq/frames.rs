//! The frames nsqd sends over its TCP protocol: a size, a type and data, without I/O.

use std::fmt;

use bytes::{Buf, BufMut, BytesMut};

/// The longest frame a publisher reads. Answers to publishes are short; whatever is longer is no answer to one.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// The longest frame a consumer reads. No nsqd takes larger messages than this by far.
pub const MAX_MESSAGE_FRAME_BYTES: usize = 64 << 20;

/// An answer to a command.
pub const RESPONSE: i32 = 0;
/// An answer that says what is wrong.
pub const ERROR: i32 = 1;
/// A message of a channel.
pub const MESSAGE: i32 = 2;
/// The answer that nobody asked for, and that wants one itself.
pub const HEARTBEAT: &[u8] = b"_heartbeat_";

const TYPE_BYTES: usize = 4;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is: 0 an answer, 1 an error, 2 a message.
    pub kind: i32,
    /// What it says.
    pub data: BytesMut,
}

/// Bytes that are no frame; nothing behind them can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadSize {
    announced: i32,
    longest: usize,
}

impl fmt::Display for BadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a frame of {} bytes, {TYPE_BYTES} to {} are legal here: not an nsqd?",
            self.announced, self.longest
        )
    }
}

impl std::error::Error for BadSize {}

/// Appends a frame.
pub fn encode(kind: i32, data: &[u8], buffer: &mut BytesMut) {
    buffer.reserve(4 + TYPE_BYTES + data.len());
    buffer.put_u32((TYPE_BYTES + data.len()) as u32);
    buffer.put_i32(kind);
    buffer.put_slice(data);
}

/// Takes one whole frame from the front of `buffer`; `None` when more bytes are needed.
///
/// # Errors
/// [`BadSize`].
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, BadSize> {
    decode_up_to(buffer, MAX_FRAME_BYTES)
}

/// As [`decode`], of frames that may be longer.
///
/// # Errors
/// [`BadSize`].
pub fn decode_up_to(buffer: &mut BytesMut, longest: usize) -> Result<Option<Frame>, BadSize> {
    let Some(size) = buffer.first_chunk::<4>() else { return Ok(None) };
    let announced = i32::from_be_bytes(*size);
    let size = usize::try_from(announced).unwrap_or(0);
    if !(TYPE_BYTES..=longest).contains(&size) {
        return Err(BadSize { announced, longest });
    }
    if buffer.len() < 4 + size {
        return Ok(None);
    }
    buffer.advance(4);
    let mut data = buffer.split_to(size);
    let kind = data.get_i32();
    Ok(Some(Frame { kind, data }))
}
