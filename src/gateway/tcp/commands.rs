//! The commands of nsqd's TCP protocol, without I/O: bytes in, commands and faults out.
//!
//! A command is a line; behind some stand a size and a body. What is wrong is found in nsqd's order (`protocol_v2.go`, 1.3.0): the line
//! before the size, the size before the body has come. The size in front of an `MPUB` is checked and then not believed, as nsqd does it:
//! where the command ends is said by its messages.

use std::{fmt, time::Duration};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    messages::{Messages, number},
    replies::Fault,
};
use crate::{
    gateway::{GatewayConfig, body::COPIED_BELOW},
    nsq::{
        mpub::{self, SIZE_BYTES},
        names::TopicName,
    },
};

/// The longest line, its newline included (nsqd's read buffer).
const MAX_LINE_BYTES: usize = 16 * 1024;

/// nsqd's limits.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) max_msg_size: usize,
    pub(crate) max_body_size: usize,
    pub(crate) max_req_timeout: Duration,
}

impl From<&GatewayConfig> for Limits {
    fn from(config: &GatewayConfig) -> Self {
        let GatewayConfig { max_msg_size, max_body_size, max_req_timeout, .. } = *config;
        Self { max_msg_size, max_body_size, max_req_timeout }
    }
}

/// A whole command that may be followed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The answer to a heartbeat.
    Nop,
    /// Who is there, as JSON.
    Identify(Bytes),
    /// Messages.
    Publish(Publish),
}

impl Command {
    /// The bytes that came with it; `None` for one that has no body, nor an answer.
    pub(super) fn body_bytes(&self) -> Option<usize> {
        match self {
            Command::Nop => None,
            Command::Identify(body) => Some(body.len()),
            Command::Publish(publish) => Some(publish.bodies.iter().map(Bytes::len).sum()),
        }
    }
}

/// Messages for one topic.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(super) verb: Verb,
    pub(super) topic: TopicName,
    pub(super) bodies: Vec<Bytes>,
    pub(super) defer: Option<Duration>,
}

/// What a line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Pub,
    Mpub,
    Dpub,
    Identify,
    Auth,
    Nop,
    Other,
}

impl Verb {
    fn of(word: &[u8]) -> Self {
        match word {
            b"PUB" => Verb::Pub,
            b"MPUB" => Verb::Mpub,
            b"DPUB" => Verb::Dpub,
            b"IDENTIFY" => Verb::Identify,
            b"AUTH" => Verb::Auth,
            b"NOP" => Verb::Nop,
            _ => Verb::Other,
        }
    }

    /// What metrics call it.
    pub(super) fn endpoint(self) -> &'static str {
        match self {
            Verb::Pub => "tcp_pub",
            Verb::Mpub => "tcp_mpub",
            Verb::Dpub => "tcp_dpub",
            Verb::Identify => "tcp_identify",
            Verb::Auth | Verb::Nop | Verb::Other => "tcp_other",
        }
    }

    /// nsqd's code for what it could not carry out.
    pub(super) fn failed(self) -> &'static str {
        match self {
            Verb::Identify => "E_IDENTIFY_FAILED",
            Verb::Auth => "E_AUTH_FAILED",
            Verb::Mpub => "E_MPUB_FAILED",
            Verb::Dpub => "E_DPUB_FAILED",
            Verb::Pub | Verb::Nop | Verb::Other => "E_PUB_FAILED",
        }
    }

    /// nsqd's code for a body that is wrong, and what it calls the body.
    fn body(self) -> (&'static str, &'static str) {
        match self {
            Verb::Pub | Verb::Dpub => ("E_BAD_MESSAGE", "message body"),
            _ => ("E_BAD_BODY", "body"),
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Pub => "PUB",
            Verb::Mpub => "MPUB",
            Verb::Dpub => "DPUB",
            Verb::Identify => "IDENTIFY",
            Verb::Auth => "AUTH",
            Verb::Nop => "NOP",
            Verb::Other => "command",
        })
    }
}

/// A command whose line has come, and whose body has not.
#[derive(Debug)]
struct Head {
    verb: Verb,
    /// Of what publishes.
    topic: Option<TopicName>,
    defer: Option<Duration>,
}

#[derive(Debug)]
enum State {
    /// So many bytes hold no newline.
    Line {
        searched: usize,
    },
    Size(Head),
    Body {
        head: Head,
        bytes: usize,
    },
    Messages {
        head: Head,
        announced: usize,
        messages: Messages,
    },
}

/// Reads the commands of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    limits: Limits,
    state: State,
    verb: Verb,
}

impl Decoder {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: State::Line { searched: 0 }, verb: Verb::Other }
    }

    /// What the last line asked for.
    pub(super) fn verb(&self) -> Verb {
        self.verb
    }

    /// Whether no command has begun, as far as its line has come.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Line { .. })
    }

    /// The bytes of the body that is to come next, from where the buffer begins.
    pub(super) fn awaited(&self) -> Option<usize> {
        match self.state {
            State::Line { .. } | State::Size(_) => None,
            State::Body { bytes, .. } | State::Messages { announced: bytes, .. } => Some(bytes),
        }
    }

    /// Takes one whole command from the front of `buffer`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// What ends the connection; nothing behind it can be read.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Command>, Fault> {
        loop {
            match std::mem::replace(&mut self.state, State::Line { searched: 0 }) {
                State::Line { searched } => {
                    let Some(length) = line_length(buffer, searched)? else {
                        self.state = State::Line { searched: buffer.len() };
                        return Ok(None);
                    };
                    let line = &buffer[..length];
                    let head = self.begin(line.strip_suffix(b"\r").unwrap_or(line))?;
                    buffer.advance(length + 1);
                    match head {
                        Some(head) => self.state = State::Size(head),
                        None => return Ok(Some(Command::Nop)),
                    }
                }
                State::Size(head) => {
                    let Some(size) = number(buffer, 0) else {
                        self.state = State::Size(head);
                        return Ok(None);
                    };
                    buffer.advance(SIZE_BYTES);
                    let bytes = self.check_size(head.verb, size)?;
                    self.state = match head.verb {
                        Verb::Mpub => {
                            State::Messages { head, announced: bytes, messages: Messages::default() }
                        }
                        _ => State::Body { head, bytes },
                    };
                }
                State::Body { head, bytes } => {
                    if buffer.len() < bytes {
                        self.state = State::Body { head, bytes };
                        return Ok(None);
                    }
                    let body = take(buffer, bytes);
                    return head.with(vec![body]).map(Some);
                }
                State::Messages { head, mut announced, mut messages } => {
                    if let Some(bytes) = messages.find(buffer, &self.limits)? {
                        let Limits { max_msg_size, max_body_size, .. } = self.limits;
                        let bodies = mpub::decode_binary(take(buffer, bytes), max_msg_size, max_body_size);
                        let bodies =
                            bodies.map_err(|error| Fault::new("E_BAD_BODY", format!("MPUB {error}")))?;
                        return head.with(bodies).map(Some);
                    }
                    announced = announced.max(messages.needed(buffer));
                    self.state = State::Messages { head, announced, messages };
                    return Ok(None);
                }
            }
        }
    }

    /// What is wrong when nothing more comes behind the bytes in `buffer`; nothing, between two commands.
    pub(crate) fn cut_off(&self, buffer: &[u8]) -> Option<Fault> {
        let failed = |code, what: fmt::Arguments<'_>| {
            Some(Fault::new(code, format!("{} failed to read {what}", self.verb)))
        };
        let (code, body) = self.verb.body();
        match &self.state {
            State::Line { .. } => None,
            State::Size(_) => failed(code, format_args!("{body} size")),
            State::Body { .. } => failed(code, format_args!("{body}")),
            State::Messages { messages, .. } => Some(messages.cut_off(buffer)),
        }
    }

    /// What a line asks for; `None` for what needs no body.
    fn begin(&mut self, line: &[u8]) -> Result<Option<Head>, Fault> {
        let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let invalid = |words: &str| Err(Fault::new("E_INVALID", words));
        self.verb = Verb::of(words[0]);
        let verb = self.verb;
        match verb {
            Verb::Identify => Ok(Some(Head { verb, topic: None, defer: None })),
            Verb::Auth if words.len() > 1 => invalid("AUTH invalid number of parameters"),
            Verb::Auth => Ok(Some(Head { verb, topic: None, defer: None })),
            Verb::Pub | Verb::Mpub | Verb::Dpub => {
                let wanted = if verb == Verb::Dpub { 3 } else { 2 };
                if words.len() < wanted {
                    return invalid(&format!("{verb} insufficient number of parameters"));
                }
                let name = str::from_utf8(words[1]).ok().and_then(|name| name.parse().ok());
                let topic: TopicName = name.ok_or_else(|| Fault::bad_topic(verb, words[1]))?;
                let defer = if verb == Verb::Dpub { self.defer(words[2])? } else { None };
                Ok(Some(Head { verb, topic: Some(topic), defer }))
            }
            Verb::Nop => Ok(None),
            // A producer has subscribed to nothing that it could close.
            Verb::Other if words[0] == b"CLS" => invalid("cannot CLS in current state"),
            Verb::Other if [&b"SUB"[..], b"RDY", b"FIN", b"REQ", b"TOUCH"].contains(&words[0]) => {
                invalid(&format!(
                    "{} is for consumers: this is nsqbridge's gateway, which serves producers only; consumers stay with nsqd and nsqlookupd",
                    String::from_utf8_lossy(words[0])
                ))
            }
            Verb::Other => Err(Fault::new("E_INVALID", [b"invalid command ", words[0]].concat())),
        }
    }

    /// Milliseconds as nsqd reads them: digits and nothing else, none of them for 0. It lets numbers beyond 64 bits begin anew; this
    /// does not.
    fn defer(&self, text: &[u8]) -> Result<Option<Duration>, Fault> {
        let mut millis: u64 = 0;
        for byte in text {
            if !byte.is_ascii_digit() {
                return Err(Fault::new("E_INVALID", [b"DPUB could not parse timeout ", text].concat()));
            }
            millis = millis.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
        }
        let (defer, longest) = (Duration::from_millis(millis), self.limits.max_req_timeout);
        if defer > longest {
            let longest = longest.as_millis();
            return Err(Fault::new("E_INVALID", format!("DPUB timeout {millis} out of range 0-{longest}")));
        }
        Ok(Some(defer).filter(|defer| !defer.is_zero()))
    }

    fn check_size(&self, verb: Verb, size: i32) -> Result<usize, Fault> {
        let (code, body) = verb.body();
        let (limit, what) = match verb {
            Verb::Pub | Verb::Dpub => (self.limits.max_msg_size, "message"),
            _ => (self.limits.max_body_size, "body"),
        };
        match usize::try_from(size) {
            Ok(bytes @ 1..) if bytes <= limit => Ok(bytes),
            Ok(1..) => Err(Fault::new(code, format!("{verb} {what} too big {size} > {limit}"))),
            _ => Err(Fault::new(code, format!("{verb} invalid {body} size {size}"))),
        }
    }
}

impl Head {
    /// The command, now that its bodies are there.
    fn with(self, mut bodies: Vec<Bytes>) -> Result<Command, Fault> {
        match (self.topic, self.verb) {
            (Some(topic), verb) => Ok(Command::Publish(Publish { verb, topic, bodies, defer: self.defer })),
            (None, Verb::Identify) => Ok(Command::Identify(bodies.pop().unwrap_or_default())),
            (None, _) => Err(Fault::new("E_AUTH_DISABLED", "AUTH disabled")),
        }
    }
}

/// The bytes of the next line before its newline.
fn line_length(buffer: &[u8], searched: usize) -> Result<Option<usize>, Fault> {
    match memchr::memchr(b'\n', &buffer[searched..]).map(|at| searched + at) {
        Some(length) if length < MAX_LINE_BYTES => Ok(Some(length)),
        None if buffer.len() < MAX_LINE_BYTES => Ok(None),
        _ => Err(Fault::Unsaid),
    }
}

fn take(buffer: &mut BytesMut, bytes: usize) -> Bytes {
    if bytes >= COPIED_BELOW {
        let taken = buffer.split_to(bytes).freeze();
        // What is left would keep all the room of a large body for as long as the connection lives.
        *buffer = BytesMut::from(&buffer[..]);
        return taken;
    }
    let copy = Bytes::copy_from_slice(&buffer[..bytes]);
    buffer.advance(bytes);
    copy
}
