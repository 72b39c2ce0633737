//! What is said about a file that cannot be taken: everything at once, each problem with its key, its value and what is accepted.

use std::{fmt, path::Path};

/// One thing wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `section.key`.
    pub key: String,
    /// What is wrong, and what is accepted.
    pub reason: String,
}

/// Problems, as an error shows them: how many, then one a line.
#[derive(Debug)]
pub struct Listed<'a>(pub &'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} problem{}", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|Problem { key, reason }| write!(f, "\n  {key} {reason}"))
    }
}

/// Says that there is no such `what`, with the nearest that there is, or all of them.
#[must_use]
pub fn unknown(what: &str, name: &str, known: impl IntoIterator<Item = impl Into<String>>) -> String {
    let known: Vec<String> = known.into_iter().map(Into::into).collect();
    match nearest(name, &known) {
        Some(near) => format!("is no {what}; did you mean {near}?"),
        None => format!("is no {what}; there are {}", known.join(", ")),
    }
}

/// The known name that was probably meant.
#[must_use]
pub fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let near = known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|one, two| one.0.total_cmp(&two.0));
    near.map(|(_, known)| known.as_str())
}

/// A TOML file's content.
///
/// # Errors
/// Why there is none, in words.
pub fn read_toml(path: &Path) -> Result<toml::Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    text.parse().map_err(|error: toml::de::Error| error.to_string())
}
