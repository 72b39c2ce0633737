//! The `nsqbridge` program: reads the command line, starts logging and the runtime, and turns the end into an exit code.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use nsqbridge::{
    cli::LogFormat,
    config::{self, Refusal},
    observe::logging,
    run,
    settings::{RunError, USAGE},
};
use tokio::runtime::{Builder, Runtime};

/// The end waits no longer for a thread that a disk keeps.
const DISK_WITHIN: Duration = Duration::from_secs(1);

/// One thread does without what several need to share the work: measured, less processor time for each message.
fn runtime(threads: usize) -> io::Result<Runtime> {
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

/// Says what is wrong, to whoever still listens.
fn complain(wrong: impl Display) {
    let _ = writeln!(io::stderr(), "error: {wrong}");
}

fn main() -> ExitCode {
    let invocation = match config::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(Refusal::CommandLine(error)) => {
            // clap exits with 2 for usage, which here means "blocked by checks".
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
        Err(refusal) => {
            complain(&refusal);
            return ExitCode::from(USAGE);
        }
    };
    logging::start(invocation.log.level, matches!(invocation.log.format, LogFormat::Json));
    let runtime = match runtime(invocation.threads) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot start");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run::run(invocation.work)).unwrap_or_else(|error| {
        match &error {
            RunError::Usage(problems) => problems.iter().for_each(complain),
            RunError::Blocked(reason) | RunError::Failed(reason) => complain(reason),
            RunError::Start { .. } => tracing::error!(%error, "cannot run"),
        }
        error.exit_code()
    });
    runtime.shutdown_timeout(DISK_WITHIN);
    code
}
