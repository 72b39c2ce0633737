//! The one error of this crate: a text for the person whose test failed.
//!
//! Nobody branches on a server that did not start, so there are no variants; what matters is that the text names the
//! server, the reason and the end of its log.

use std::fmt;
use std::io;
use std::path::Path;

/// What went wrong, as a readable text of one or more lines.
pub struct Error(String);

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that says `text`.
    pub fn new(text: impl Into<String>) -> Error {
        Error(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The same text as `Display`: `unwrap` in a test prints it, and a log tail in one escaped line helps nobody.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// For `map_err`: "cannot `verb` `path`: reason".
pub(crate) fn cannot(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::new(format!("cannot {verb} {}: {e}", path.display()))
}
