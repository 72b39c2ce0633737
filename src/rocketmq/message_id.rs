//! Offset message ids: the `msgId` in a send's answer, which is a place in some broker's commit log.
//!
//! ```text
//! address (4 or 16 bytes) | port u32 | commit-log offset u64      in hex: 32 or 56 digits
//! ```
//!
//! Not the id a producer gives a message, which is the property `UNIQ_KEY`. Source:
//! `MessageDecoder.createMessageId`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Where a message is stored. Reads from and prints as hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OffsetMessageId {
    /// The broker's advertised address.
    pub store_host: SocketAddr,
    /// The message's place in that broker's commit log, in bytes.
    pub physical_offset: i64,
}

/// A text that is no offset message id. Its sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an offset message id: 32 or 56 hex digits with a port of at most 65535")]
pub struct MessageIdError(String);

impl fmt::Display for OffsetMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.store_host.ip() {
            IpAddr::V4(address) => write!(f, "{:08X}", address.to_bits())?,
            IpAddr::V6(address) => write!(f, "{:032X}", address.to_bits())?,
        }
        write!(f, "{:08X}{:016X}", self.store_host.port(), self.physical_offset)
    }
}

impl FromStr for OffsetMessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<Self, MessageIdError> {
        parse(text).ok_or_else(|| MessageIdError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<OffsetMessageId> {
    // The number parsers below would also take a sign.
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let ip = match text.len() {
        32 => IpAddr::V4(Ipv4Addr::from_bits(u32::from_str_radix(&text[..8], 16).ok()?)),
        56 => IpAddr::V6(Ipv6Addr::from_bits(u128::from_str_radix(&text[..32], 16).ok()?)),
        _ => return None,
    };
    let (port, offset) = text[text.len() - 24..].split_at(8);
    let port = u32::from_str_radix(port, 16).ok()?.try_into().ok()?;
    let offset = u64::from_str_radix(offset, 16).ok()?;
    Some(OffsetMessageId { store_host: SocketAddr::new(ip, port), physical_offset: offset.cast_signed() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_as_a_broker_prints_it() {
        let id: OffsetMessageId = "7F00000100002A9F00000000000001C8".parse().unwrap();
        assert_eq!(id.store_host, "127.0.0.1:10911".parse().unwrap());
        assert_eq!(id.physical_offset, 456);
        assert_eq!(id.to_string(), "7F00000100002A9F00000000000001C8");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "7F00000100002A9F00000000000001C",
            "+F00000100002A9F00000000000001C8",
            "7F00000100012A9F00000000000001C8",
            "ü7F00000100002A9F0000000000001C8",
        ] {
            assert_eq!(text.parse::<OffsetMessageId>(), Err(MessageIdError(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn ids_read_as_they_print(ip: IpAddr, port: u16, physical_offset: i64) {
            let id = OffsetMessageId { store_host: SocketAddr::new(ip, port), physical_offset };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in "[0-9a-fA-F+ü]{0,57}") {
            let _ = text.parse::<OffsetMessageId>();
        }
    }
}
