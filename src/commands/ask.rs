//! Asks a person on the terminal.

use std::io::{IsTerminal, Write};

use crate::settings::{RunError, failed};

/// Whether somebody agrees to a question by writing this word.
///
/// # Errors
/// [`RunError::Usage`] where nobody sits.
pub(super) fn agrees(question: &str, word: &str) -> Result<bool, RunError> {
    if !std::io::stdin().is_terminal() {
        return Err(RunError::Usage(vec!["nobody can be asked here: give --yes".to_owned()]));
    }
    let mut terminal = std::io::stderr();
    let _ = write!(terminal, "{question} ({word}) ").and_then(|()| terminal.flush());
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.map_err(|error| failed(format!("the answer cannot be read: {error}")))?;
    Ok(line.trim() == word)
}
