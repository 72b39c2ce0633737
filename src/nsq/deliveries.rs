//! What nsqd and a consumer say to each other over the TCP protocol, without I/O.
//!
//! A message's frame holds when it was published (nanoseconds since 1970), how often it was delivered, 16 hex digits that name
//! it, and the body. Source: nsqd's `message.go` and `protocol_v2.go`, 1.3.0.

use std::{fmt, time::Duration};

use bytes::{Buf, Bytes};

use super::names::{ChannelName, TopicName};

/// Bytes before the body.
const HEAD_BYTES: usize = 8 + 2 + 16;

/// What nsqd calls a message: unique in one topic of one nsqd, for the clock is in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId([u8; 16]);

impl MessageId {
    /// The number that the digits write; `None` for anything but hex digits.
    #[must_use]
    pub fn number(self) -> Option<u64> {
        self.0
            .iter()
            .try_fold(0_u64, |number, &digit| Some(number << 4 | u64::from(char::from(digit).to_digit(16)?)))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A message as a channel delivers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Its name, by which it is finished.
    pub id: MessageId,
    /// When it was published, in nanoseconds since 1970; the same on every delivery.
    pub published_ns: i64,
    /// Deliveries so far, this one included.
    pub attempts: u16,
    /// Its body.
    pub body: Bytes,
}

impl Delivered {
    /// Reads what a frame holds; `None` when it is too short.
    #[must_use]
    pub fn decode(mut data: Bytes) -> Option<Self> {
        if data.len() < HEAD_BYTES {
            return None;
        }
        let (published_ns, attempts) = (data.get_i64(), data.get_u16());
        let mut id = [0; 16];
        data.copy_to_slice(&mut id);
        Some(Self { id: MessageId(id), published_ns, attempts, body: data })
    }
}

/// What a consumer says.
#[derive(Debug, Clone, Copy)]
pub enum Command<'a> {
    /// Wants the channel's messages.
    Subscribe(&'a TopicName, &'a ChannelName),
    /// Takes so many at a time.
    Ready(usize),
    /// Is done with it.
    Finish(MessageId),
    /// Puts it back, to be delivered after this time.
    Requeue(MessageId, Duration),
    /// Needs more time for it.
    Touch(MessageId),
    /// Wants no more.
    Close,
    /// Is there.
    Nop,
}

impl Command<'_> {
    /// Adds it to what is to be sent.
    pub fn write(self, to: &mut Vec<u8>) {
        let line = match self {
            Self::Subscribe(topic, channel) => format!("SUB {topic} {channel}\n"),
            Self::Ready(count) => format!("RDY {count}\n"),
            Self::Finish(id) => format!("FIN {id}\n"),
            Self::Requeue(id, after) => format!("REQ {id} {}\n", after.as_millis()),
            Self::Touch(id) => format!("TOUCH {id}\n"),
            Self::Close => "CLS\n".to_owned(),
            Self::Nop => "NOP\n".to_owned(),
        };
        to.extend_from_slice(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_nsqd_writes_it() {
        let frame = [&7_i64.to_be_bytes()[..], &2_u16.to_be_bytes(), b"0f3a00000000001c", b"body"].concat();
        let message = Delivered::decode(frame.clone().into()).unwrap();
        assert_eq!((message.published_ns, message.attempts, &message.body[..]), (7, 2, &b"body"[..]));
        assert_eq!(message.id.number(), Some(0x0f3a_0000_0000_001c));
        assert_eq!(Delivered::decode(frame[..25].to_vec().into()), None);
        assert_eq!(MessageId(*b"0f3a00000000001g").number(), None);
        let mut said = Vec::new();
        for command in [
            Command::Subscribe(&"t".parse().unwrap(), &"c".parse().unwrap()),
            Command::Ready(5),
            Command::Finish(message.id),
            Command::Requeue(message.id, Duration::from_secs(1)),
            Command::Touch(message.id),
            Command::Close,
            Command::Nop,
        ] {
            command.write(&mut said);
        }
        let expected = "SUB t c\nRDY 5\nFIN 0f3a00000000001c\nREQ 0f3a00000000001c 1000\nTOUCH 0f3a00000000001c\nCLS\nNOP\n";
        assert_eq!(String::from_utf8(said).unwrap(), expected);
    }
}
