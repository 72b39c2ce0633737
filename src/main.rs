//! The `nsqbridge` program: reads the command line, starts logging and the runtime, and turns the end into an exit code.

use std::process::ExitCode;

use nsqbridge::{
    cli::LogFormat,
    config::{self, Refusal},
    observe::logging,
    run::{self, RunError},
};

fn main() -> ExitCode {
    let invocation = match config::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(Refusal::CommandLine(error)) => {
            // clap exits with 2 for usage, which here means "blocked by checks".
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(3) } else { ExitCode::SUCCESS };
        }
        Err(refusal) => {
            eprintln!("error: {refusal}");
            return ExitCode::from(3);
        }
    };
    logging::start(invocation.log.level, matches!(invocation.log.format, LogFormat::Json));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot start");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run::run(invocation)).unwrap_or_else(|error| {
        match &error {
            RunError::Usage(problems) => problems.iter().for_each(|problem| eprintln!("error: {problem}")),
            RunError::Failed(reason) => eprintln!("error: {reason}"),
            RunError::Start { .. } => tracing::error!(%error, "cannot run"),
        }
        error.exit_code()
    })
}
