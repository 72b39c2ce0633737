//! Frames and commands: the bytes of RocketMQ's remoting protocol, both ways, without I/O.
//!
//! ```text
//! frame  = length u32 | header word u32 | header (JSON) | body
//!          `length` counts everything after itself; the header word's top byte is the serialization
//!          (0 JSON, 1 RocketMQ's binary form), its low 24 bits the header's length. All big-endian.
//! ```
//!
//! We send JSON headers, which every broker since 4.0 reads and answers in kind; a binary header is an error here,
//! never a guess. Source: `RemotingCommand` and `NettyDecoder`, seen on 4.9.7 and 5.5.0.

use std::{collections::BTreeMap, fmt};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};

use crate::excerpt::excerpt;

/// The longest frame either side accepts: `com.rocketmq.remoting.frameMaxLength`, 16 MiB by default.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// The longest header that is read. Brokers' are a few hundred bytes, and 32 KiB more with the largest properties; read, a
/// header of very many small fields takes twenty times its length.
pub const MAX_HEADER_BYTES: usize = 1024 * 1024;

/// What is got ready for the next part of a frame at least; more only as bytes come, for the length is but a claim.
const READ_BYTES: usize = 64 * 1024;

/// The protocol version we announce: the ordinal of RocketMQ 5.5.0.
///
/// From 401 on name servers answer routes as standard JSON; above 5.3.1's a broker that shuts down gracefully says so
/// (`GO_AWAY`). Older brokers treat a higher ordinal as "newer than me".
pub const VERSION: i32 = 513;

const FLAG_RESPONSE: i32 = 1;
const FLAG_ONEWAY: i32 = 1 << 1;

/// The header fields that carry a request's or an answer's own arguments.
pub type Ext = BTreeMap<String, String>;

/// One request or response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// A request code or, in a response, a response code; see [`super::codes`].
    pub code: i32,
    /// The sender's version ordinal; a broker's answer tells its release line.
    pub version: i32,
    /// Correlates a response with its request on one connection.
    pub opaque: i32,
    /// Bit 0: response; bit 1: no answer wanted.
    pub flag: i32,
    /// What went wrong, in a response that is not a success.
    pub remark: Option<String>,
    /// The command's own fields.
    pub ext: Ext,
    /// The payload.
    pub body: Bytes,
}

impl Command {
    /// A request with this code; the connection gives it its opaque.
    #[must_use]
    pub fn request(code: i32) -> Self {
        Self { code, version: VERSION, ..Self::default() }
    }

    /// The answer to `request`.
    #[must_use]
    pub fn response_to(request: &Command, code: i32, remark: Option<String>) -> Self {
        Self {
            code,
            version: VERSION,
            opaque: request.opaque,
            flag: FLAG_RESPONSE,
            remark,
            ..Self::default()
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl ToString) -> Self {
        self.ext.insert(name.to_owned(), value.to_string());
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Whether this is an answer.
    #[must_use]
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// Whether the peer wants no answer.
    #[must_use]
    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }

    /// The remark, or a placeholder for none.
    #[must_use]
    pub fn remark(&self) -> &str {
        self.remark.as_deref().unwrap_or("no remark")
    }

    /// A number among the fields.
    ///
    /// # Errors
    /// When the field is absent or not a number: the peer broke the protocol.
    pub fn number(&self, name: &'static str) -> Result<i64, CodecError> {
        let text = self.ext.get(name).ok_or(CodecError::MissingField(name))?;
        text.parse().map_err(|_| CodecError::BadField { name, value: excerpt(text) })
    }
}

/// A frame that cannot be read; the connection it came on is of no further use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// Longer than [`MAX_FRAME_BYTES`], or too short to hold a header.
    #[error(
        "the peer announced a frame of {0} bytes; 4 to {MAX_FRAME_BYTES} are legal: not a RocketMQ peer?"
    )]
    FrameLength(u32),
    /// The header's length does not fit the frame, or is beyond [`MAX_HEADER_BYTES`].
    #[error(
        "the peer announced a header of {header} bytes in a frame of {frame}; at most {MAX_HEADER_BYTES} are read"
    )]
    HeaderLength {
        /// Announced header bytes.
        header: usize,
        /// Bytes in the frame.
        frame: usize,
    },
    /// Not a JSON header.
    #[error("the peer's header has serialization {0}, JSON (0) was asked for")]
    Serialization(u8),
    /// JSON that is not a command.
    #[error("the peer's header is not a command: {0}")]
    Header(String),
    /// A field the protocol promises is absent.
    #[error("the peer's answer lacks the field {0}")]
    MissingField(&'static str),
    /// A field that should be a number is not.
    #[error("the peer's answer has {name}={value:?}, not a number")]
    BadField {
        /// The field's name.
        name: &'static str,
        /// What stood there.
        value: String,
    },
}

/// The JSON header exactly as `RemotingCommand` serialises it.
#[derive(Serialize)]
struct HeaderOut<'a> {
    code: i32,
    language: &'static str,
    version: i32,
    opaque: i32,
    flag: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    remark: Option<&'a str>,
    #[serde(rename = "extFields", skip_serializing_if = "BTreeMap::is_empty")]
    ext: &'a Ext,
    #[serde(rename = "serializeTypeCurrentRPC")]
    serialization: &'static str,
}

#[derive(Deserialize)]
struct HeaderIn {
    code: i32,
    #[serde(default)]
    version: i32,
    opaque: i32,
    #[serde(default)]
    flag: i32,
    #[serde(default)]
    remark: Option<String>,
    #[serde(default, rename = "extFields", deserialize_with = "fields")]
    ext: Ext,
}

/// Reads a command's own fields; one that is `null` counts as absent, and so do all of them.
fn fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ext, D::Error> {
    struct Fields;

    impl<'de> Visitor<'de> for Fields {
        type Value = Ext;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("fields whose values are text")
        }

        fn visit_unit<E>(self) -> Result<Ext, E> {
            Ok(Ext::new())
        }

        fn visit_map<M: MapAccess<'de>>(self, mut fields: M) -> Result<Ext, M::Error> {
            let mut ext = Ext::new();
            while let Some((name, value)) = fields.next_entry::<String, Option<String>>()? {
                match value {
                    Some(value) => ext.insert(name, value),
                    None => ext.remove(&name),
                };
            }
            Ok(ext)
        }
    }

    deserializer.deserialize_any(Fields)
}

/// Appends the frame of `command` to `out`.
pub fn encode(command: &Command, out: &mut BytesMut) {
    encode_head(command, out);
    out.extend_from_slice(&command.body);
}

/// Appends all of the frame but its body, which is to follow.
pub fn encode_head(command: &Command, out: &mut BytesMut) {
    let start = out.len();
    out.put_u64(0);
    let header = HeaderOut {
        code: command.code,
        // OTHER is in every broker's list of languages; RUST is missing from the older ones, which then fail to parse.
        language: "OTHER",
        version: command.version,
        opaque: command.opaque,
        flag: command.flag,
        remark: command.remark.as_deref(),
        ext: &command.ext,
        serialization: "JSON",
    };
    serde_json::to_writer((&mut *out).writer(), &header)
        .expect("a header of strings and numbers always serialises into memory");
    let header_len = out.len() - start - 8;
    let length = 4 + header_len + command.body.len();
    out[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
    out[start + 4..start + 8].copy_from_slice(&(header_len as u32).to_be_bytes());
}

/// Takes one whole frame from the front of `buf`; `None` when more bytes are needed.
///
/// # Errors
/// [`CodecError`] when the bytes cannot be a frame; the stream cannot be resynchronised after that.
pub fn decode(buf: &mut BytesMut) -> Result<Option<Command>, CodecError> {
    let Some(length) = buf.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else {
        return Ok(None);
    };
    let frame_len = length as usize;
    if !(4..=MAX_FRAME_BYTES).contains(&frame_len) {
        return Err(CodecError::FrameLength(length));
    }
    if buf.len() < 4 + frame_len {
        buf.reserve((4 + frame_len - buf.len()).min(buf.len().max(READ_BYTES)));
        return Ok(None);
    }
    buf.advance(4);
    let mut frame = buf.split_to(frame_len).freeze();
    let word = frame.get_u32();
    let (serialization, header_len) = ((word >> 24) as u8, (word & 0x00FF_FFFF) as usize);
    if serialization != 0 {
        return Err(CodecError::Serialization(serialization));
    }
    if header_len > frame.len().min(MAX_HEADER_BYTES) {
        return Err(CodecError::HeaderLength { header: header_len, frame: frame_len });
    }
    let header = frame.split_to(header_len);
    let header: HeaderIn =
        serde_json::from_slice(&header).map_err(|error| CodecError::Header(excerpt(&error.to_string())))?;
    Ok(Some(Command {
        code: header.code,
        version: header.version,
        opaque: header.opaque,
        flag: header.flag,
        remark: header.remark,
        ext: header.ext,
        body: frame,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_command() -> impl Strategy<Value = Command> {
        (
            (any::<i32>(), any::<i32>(), any::<i32>(), any::<i32>()),
            proptest::option::of(".*"),
            proptest::collection::btree_map(".*", ".*", 0..5),
            proptest::collection::vec(any::<u8>(), 0..200),
        )
            .prop_map(|((code, version, opaque, flag), remark, ext, body)| Command {
                code,
                version,
                opaque,
                flag,
                remark,
                ext,
                body: body.into(),
            })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_whatever_the_cuts(command in any_command(), cut in any::<prop::sample::Index>()) {
            let mut wire = BytesMut::new();
            encode(&command, &mut wire);
            encode(&command, &mut wire);
            let cut = cut.index(wire.len());
            let mut buf = BytesMut::from(&wire[..cut]);
            let mut seen = Vec::new();
            while let Some(command) = decode(&mut buf).unwrap() { seen.push(command); }
            buf.extend_from_slice(&wire[cut..]);
            while let Some(command) = decode(&mut buf).unwrap() { seen.push(command); }
            prop_assert_eq!(seen, vec![command.clone(), command]);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buf = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buf) {}
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_memory_is_taken() {
        let decode = |bytes: &[u8]| super::decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[0x7F, 0, 0, 0]), Err(CodecError::FrameLength(0x7F00_0000)));
        assert_eq!(decode(&[0, 0, 0, 3, 0, 0, 0]), Err(CodecError::FrameLength(3)));
        assert_eq!(decode(&[0, 0, 0, 4, 0, 0, 0, 9]), Err(CodecError::HeaderLength { header: 9, frame: 4 }));
        assert_eq!(decode(&[0, 0, 0, 4, 1, 0, 0, 0]), Err(CodecError::Serialization(1)));
        assert_eq!(decode(&[0, 0]), Ok(None));
        let long = [&[0, 0xFF, 0, 0, 0, 0x10, 0, 1][..], &vec![b' '; 0x00FF_0000]].concat();
        assert_eq!(decode(&long), Err(CodecError::HeaderLength { header: 0x10_0001, frame: 0xFF_0000 }));
        let mut claim = BytesMut::from(&[0, 0xFF, 0, 0][..]);
        assert_eq!(super::decode(&mut claim), Ok(None));
        assert!(claim.capacity() < 2 * READ_BYTES, "{} bytes for a claim", claim.capacity());
    }

    #[test]
    fn a_null_field_counts_as_absent() {
        let header = br#"{"code":0,"opaque":7,"extFields":{"a":null,"b":"1"}}"#;
        let mut wire = BytesMut::new();
        wire.put_u32(4 + header.len() as u32);
        wire.put_u32(header.len() as u32);
        wire.extend_from_slice(header);
        let command = decode(&mut wire).unwrap().unwrap();
        assert_eq!(command.number("b"), Ok(1));
        assert_eq!(command.number("a"), Err(CodecError::MissingField("a")));
        let header = br#"{"code":0,"opaque":7,"extFields":null}"#;
        wire.put_u32(4 + header.len() as u32);
        wire.put_u32(header.len() as u32);
        wire.extend_from_slice(header);
        assert!(decode(&mut wire).unwrap().unwrap().ext.is_empty());
    }
}
