//! What is asked or done once, as the command line says it; a file here does what the file of its name in [`crate::cli`] words.
//!
//! Answers go to standard output, what else is to be known to standard error; the exit code says how it ended.

#[macro_use]
mod say;

mod ask;
mod migration;
mod moving;
mod plan_file;
mod target;
mod tools;
mod verify;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::{cli::Question, settings::RunError};

/// Answers.
///
/// # Errors
/// See [`RunError`].
pub async fn answer(question: Question, stop: &CancellationToken) -> Result<ExitCode, RunError> {
    match question {
        Question::Doctor(args) => tools::doctor(*args).await,
        Question::Status(args) => tools::status(*args, stop).await,
        Question::Relay(args) => tools::relay(*args).await,
        Question::Parked(args) => tools::parked(*args).await,
        Question::Verify(args) => verify::verify(*args).await,
        Question::Scan(args) => migration::scan(*args).await,
        Question::Plan(args) => migration::plan(*args).await,
        Question::Cutover(args) => moving::cut_over(*args, stop).await,
        Question::Rollback(args) => moving::roll_back(*args, stop).await,
        Question::Complete(args) => moving::complete(*args, stop).await,
        Question::Rehearse(args) => moving::rehearse(*args, stop).await,
    }
}
