//! What must be equal.

use std::collections::BTreeSet;

use serde_json::Value;

use super::conversation::{Answer, Seen};

/// How bodies are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// Byte by byte.
    Exactly,
    /// JSON: keys and types, for values that are each server's own.
    JsonKeys,
    /// Text: words, for numbers and times that are each server's own.
    Words,
    /// Not at all: an address of its own.
    Heads,
}

/// Values of JSON that must be equal even so.
const SAME_VALUE: &[&str] = &["version", "health"];

/// Whether both did the same.
pub fn alike(compared: Compared, one: &Seen, other: &Seen) -> bool {
    let essence = |seen: &Seen| -> Vec<Answer> {
        seen.answers.iter().map(|answer| essence(compared, answer.clone())).collect()
    };
    essence(one) == essence(other) && one.end == other.end && one.left_over == other.left_over
}

/// The statuses of all answers, with nsqd's error codes, then what became of the connection.
pub fn summary(seen: &Seen) -> String {
    let mut words = Vec::new();
    for answer in &seen.answers {
        words.push(answer.status().to_owned());
        let code = str::from_utf8(&answer.body).ok();
        let code = code.and_then(|body| body.strip_prefix(r#"{"message":""#)?.strip_suffix(r#""}"#));
        words.extend(code.map(str::to_owned));
    }
    words.push(format!("{:?}", seen.end).to_lowercase());
    words.join(" ")
}

/// An answer without what differs from one moment to the next.
fn essence(compared: Compared, mut answer: Answer) -> Answer {
    answer.headers.iter_mut().filter(|(name, _)| name == "Date").for_each(|(_, value)| value.clear());
    if compared == Compared::Exactly {
        return answer;
    }
    // How long such a body is, and whether it is long enough to go out in chunks, is each server's own.
    answer.headers.retain(|(name, _)| name != "Content-Length" && name != "Transfer-Encoding");
    answer.body = match compared {
        Compared::JsonKeys => match serde_json::from_slice(&answer.body) {
            Ok(value) => shape(&value).into_bytes(),
            Err(_) => answer.body,
        },
        Compared::Words => words(&String::from_utf8_lossy(&answer.body)).into_bytes(),
        Compared::Heads | Compared::Exactly => Vec::new(),
    };
    answer
}

/// Keys and types.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if number.is_f64() => "float".to_owned(),
        Value::Number(_) => "integer".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(items) => {
            let shapes: BTreeSet<String> = items.iter().map(shape).collect();
            format!("[{}]", shapes.into_iter().collect::<Vec<_>>().join(" or "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(key, value)| match SAME_VALUE.contains(&&**key) {
                    true => format!("{key}: {value}"),
                    false => format!("{key}: {}", shape(value)),
                })
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

/// Every line's words; one `#` for each that holds a digit.
fn words(text: &str) -> String {
    let word = |word: &str| if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word }.to_owned();
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}
