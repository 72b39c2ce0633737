//! Reads what RocketMQ's servers call JSON.
//!
//! They print maps with keys that are not strings, which no JSON parser takes:
//!
//! ```text
//! {"brokerAddrs":{0:"127.0.0.1:10911"}}
//! {"offsetTable":{{"brokerName":"a","queueId":0,"topic":"t"}:{"maxOffset":5,"minOffset":0}}}
//! ```
//!
//! So here any value may be a key. All else is JSON. The text comes from a peer: no input panics, and nesting
//! is bounded.
//!
//! Source: fastjson's default features, seen in the answers to requests 105, 106, 202, 208 and 222 of 4.9.7
//! and 5.5.0.

use serde_json::Number;

/// How deep values may lie within each other; RocketMQ needs five levels.
const MAX_DEPTH: usize = 64;

/// How many values a text may hold. A topic of 10,000 queues has 70,000; read, a text of nothing but small values takes twenty
/// times its length, and a frame has room for eight million.
const MAX_VALUES: usize = 1_000_000;

/// A value, which may also be a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number
    Number(Number),
    /// A text
    String(String),
    /// Values in order
    Array(Vec<Value>),
    /// Keys and values in the order they came; doubles are kept.
    Object(Vec<(Value, Value)>),
}

impl Value {
    /// The value under a key of this name; of several the last. `None` also for what is not an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.entries().iter().rfind(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
    }

    /// A whole number, or a text that is one: the same key comes as `0` from old servers, as `"0"` from new
    /// ones.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Number(number) => number.as_i64(),
            Self::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Number(number) => number.as_f64(),
            _ => None,
        }
    }

    /// A text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// A truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The same in JSON, where every key is a text.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Number(number) => number.clone().into(),
            Self::String(text) => text.clone().into(),
            Self::Array(items) => items.iter().map(Self::to_json).collect(),
            Self::Object(entries) => {
                let key = |key: &Self| match key {
                    Self::String(text) => text.clone(),
                    other => other.to_json().to_string(),
                };
                entries.iter().map(|(name, value)| (key(name), value.to_json())).collect()
            }
        }
    }

    /// The keys and values of an object; none for anything else.
    #[must_use]
    pub fn entries(&self) -> &[(Value, Value)] {
        match self {
            Self::Object(entries) => entries,
            _ => &[],
        }
    }

    /// The values of an array; none for anything else.
    #[must_use]
    pub fn items(&self) -> &[Value] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }
}

/// A text that is not even RocketMQ's JSON: the peer is at fault, or is no RocketMQ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the peer's JSON is broken at byte {position}: {problem}")]
pub struct Error {
    /// Where, in bytes from the start.
    pub position: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Something else stands there.
    #[error("{0} expected")]
    Expected(&'static str),
    /// Values too deep within each other.
    #[error("more than {MAX_DEPTH} levels")]
    TooDeep,
    /// More values than any server has to tell.
    #[error("more than {MAX_VALUES} values")]
    TooMany,
    /// A text with a bad escape, a control character or bytes that are not UTF-8.
    #[error("a string that is none")]
    BadString,
    /// A number nothing can hold.
    #[error("a number that is none")]
    BadNumber,
}

/// Parses one value that takes up the whole of `text`.
///
/// # Errors
/// Where and why `text` is no value.
pub fn parse(text: &[u8]) -> Result<Value, Error> {
    let mut parser = Parser { text, position: 0, values: 0 };
    let value = parser.value(MAX_DEPTH)?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.expected("the end")),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    position: usize,
    values: usize,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(self.error(Problem::TooDeep));
        };
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.error(Problem::TooMany));
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.word(b"null", Value::Null),
            Some(b't') => self.word(b"true", Value::Bool(true)),
            Some(b'f') => self.word(b"false", Value::Bool(false)),
            _ => Err(self.expected("a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Error> {
        let mut entries = Vec::new();
        self.position += 1;
        if self.take(b'}') {
            return Ok(Value::Object(entries));
        }
        loop {
            let key = self.value(depth)?;
            if !self.take(b':') {
                return Err(self.expected("':'"));
            }
            entries.push((key, self.value(depth)?));
            if self.take(b'}') {
                return Ok(Value::Object(entries));
            }
            if !self.take(b',') {
                return Err(self.expected("',' or '}'"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Error> {
        let mut items = Vec::new();
        self.position += 1;
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth)?);
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take(b',') {
                return Err(self.expected("',' or ']'"));
            }
        }
    }

    /// Finds the closing quote and leaves the escapes to `serde_json`.
    fn string(&mut self) -> Result<Value, Error> {
        let mut escaped = true;
        let is_end = |byte: &u8| {
            let end = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            end
        };
        let rest = &self.text[self.position..];
        let Some(end) = rest.iter().position(is_end) else {
            return Err(self.error(Problem::BadString));
        };
        let text = serde_json::from_slice(&rest[..=end]).map_err(|_| self.error(Problem::BadString))?;
        self.position += end + 1;
        Ok(Value::String(text))
    }

    fn number(&mut self) -> Result<Value, Error> {
        let rest = &self.text[self.position..];
        let of_number = |byte: &u8| matches!(*byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let end = rest.iter().position(|byte| !of_number(byte)).unwrap_or(rest.len());
        let number = serde_json::from_slice(&rest[..end]).map_err(|_| self.error(Problem::BadNumber))?;
        self.position += end;
        Ok(Value::Number(number))
    }

    fn word(&mut self, word: &'static [u8], value: Value) -> Result<Value, Error> {
        if !self.text[self.position..].starts_with(word) {
            return Err(self.expected("a value"));
        }
        self.position += word.len();
        Ok(value)
    }

    /// The next byte that is not white space, which is skipped.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.text.get(self.position) {
            self.position += 1;
        }
        self.text.get(self.position).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.position += usize::from(found);
        found
    }

    fn expected(&self, what: &'static str) -> Error {
        self.error(Problem::Expected(what))
    }

    fn error(&self, problem: Problem) -> Error {
        Error { position: self.position, problem }
    }
}

#[cfg(test)]
mod tests;
