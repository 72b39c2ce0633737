//! The frames nsqd sends over its TCP protocol: a size, a type and data, without I/O.

use std::fmt;

use bytes::{Buf, BytesMut};

/// The longest frame that is read. Answers to publishes are short; whatever is longer is no answer to one.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

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
pub struct BadSize(i32);

impl fmt::Display for BadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a frame of {} bytes, {TYPE_BYTES} to {MAX_FRAME_BYTES} are legal here: not an nsqd?",
            self.0
        )
    }
}

impl std::error::Error for BadSize {}

/// Takes one whole frame from the front of `buffer`; `None` when more bytes are needed.
///
/// # Errors
/// [`BadSize`].
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, BadSize> {
    let Some(size) = buffer.first_chunk::<4>() else { return Ok(None) };
    let announced = i32::from_be_bytes(*size);
    let size = usize::try_from(announced).unwrap_or(0);
    if !(TYPE_BYTES..=MAX_FRAME_BYTES).contains(&size) {
        return Err(BadSize(announced));
    }
    if buffer.len() < 4 + size {
        return Ok(None);
    }
    buffer.advance(4);
    let mut data = buffer.split_to(size);
    let kind = data.get_i32();
    Ok(Some(Frame { kind, data }))
}
