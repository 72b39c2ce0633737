//! What a producer hears over TCP, in nsqd's words.
//!
//! nsqd has no error a producer's connection outlives. Whatever HTTP answers 503 to is `E_PUB_FAILED` here (or `E_MPUB_FAILED`,
//! `E_DPUB_FAILED`), and unlike HTTP's `EXITING` it says whether the message may be stored.

use std::fmt::Write;

use super::commands::Verb;
use crate::gateway::publish::PublishError;

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The producer is told so.
    Said(Vec<u8>),
    /// nsqd says nothing about it.
    Unsaid,
}

impl Fault {
    pub(super) fn new(code: &str, words: impl AsRef<[u8]>) -> Self {
        Self::Said([code.as_bytes(), b" ", words.as_ref()].concat())
    }

    /// A topic's name that cannot be one.
    pub(super) fn bad_topic(verb: Verb, name: &[u8]) -> Self {
        // nsqd's own slip.
        let doubled = if verb == Verb::Mpub { "E_BAD_TOPIC " } else { "" };
        let name = quoted(name);
        Self::new("E_BAD_TOPIC", format!("{doubled}{verb} topic name {name} is not valid"))
    }

    /// What is not stored, or perhaps not.
    pub(super) fn of_publish(verb: Verb, error: &PublishError) -> Self {
        match error {
            PublishError::Unavailable(_) | PublishError::Full(_) => {
                Self::new(verb.failed(), format!("{verb} failed {error}; repeating is safe"))
            }
            PublishError::Unknown(_) => Self::new(verb.failed(), format!("{verb} failed {error}")),
            PublishError::NoSuchTopic(_) | PublishError::Ephemeral(_) => {
                Self::new("E_BAD_TOPIC", format!("{verb} {error}"))
            }
            PublishError::DeferRefused(_) => Self::new("E_INVALID", format!("{verb} {error}")),
            PublishError::Refused(_) => Self::new("E_BAD_MESSAGE", format!("{verb} {error}")),
        }
    }
}

/// As Go's `%q` writes it.
fn quoted(text: &[u8]) -> String {
    let mut quoted = String::from('"');
    for chunk in text.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' | '\\' => quoted.extend(['\\', letter]),
                '\x07' => quoted.push_str("\\a"),
                '\x08' => quoted.push_str("\\b"),
                '\x0c' => quoted.push_str("\\f"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                '\x0b' => quoted.push_str("\\v"),
                '\'' => quoted.push(letter),
                // Rust escapes what cannot be shown, and nothing else is left here.
                _ if letter.escape_debug().len() == 1 => quoted.push(letter),
                _ => {
                    let code = u32::from(letter);
                    let _ = match code {
                        0..0x80 => write!(quoted, "\\x{code:02x}"),
                        0x80..0x1_0000 => write!(quoted, "\\u{code:04x}"),
                        _ => write!(quoted, "\\U{code:08x}"),
                    };
                }
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(quoted, "\\x{byte:02x}");
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_go_quotes_them() {
        for (name, expected) in [
            (&b"a b"[..], r#""a b""#),
            (b"", r#""""#),
            (b"a\"\\'", r#""a\"\\'""#),
            (b"\x00\x07\x08\t\n\x0b\x0c\r\x1b\x7f", r#""\x00\a\b\t\n\v\f\r\x1b\x7f""#),
            ("ü€😀".as_bytes(), "\"ü€😀\""),
            ("\u{85}\u{a0}\u{200b}\u{e0001}".as_bytes(), r#""\u0085\u00a0\u200b\U000e0001""#),
            (b"a\xff\xc3", r#""a\xff\xc3""#),
        ] {
            assert_eq!(quoted(name), expected);
        }
    }

    #[test]
    fn what_failed_says_whether_it_may_be_stored() {
        let said = |verb, error: PublishError| match Fault::of_publish(verb, &error) {
            Fault::Said(words) => String::from_utf8(words).unwrap(),
            Fault::Unsaid => String::new(),
        };
        assert_eq!(
            said(Verb::Pub, PublishError::Unavailable("no broker".to_owned())),
            "E_PUB_FAILED PUB failed not stored: no broker; repeating is safe"
        );
        assert_eq!(
            said(Verb::Mpub, PublishError::Unknown("no answer".to_owned())),
            "E_MPUB_FAILED MPUB failed perhaps stored, repeating may duplicate: no answer"
        );
        assert!(
            said(Verb::Dpub, PublishError::DeferRefused(String::new())).starts_with("E_INVALID DPUB defer")
        );
        assert!(said(Verb::Pub, PublishError::Refused(String::new())).starts_with("E_BAD_MESSAGE PUB"));
        let ephemeral = PublishError::Ephemeral("t#ephemeral".parse().unwrap());
        assert!(said(Verb::Pub, ephemeral).starts_with("E_BAD_TOPIC PUB topic t#ephemeral is ephemeral"));
    }
}
