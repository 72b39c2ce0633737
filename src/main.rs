//! The `nsqbridge` program: reads the command line, starts logging and the runtime, and turns the end into an exit code.

use std::process::ExitCode;

use clap::Parser;
use nsqbridge::{
    cli::{Cli, LogFormat},
    observe::logging,
    run,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap exits with 2 for usage, which here means "blocked by checks".
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(3) } else { ExitCode::SUCCESS };
        }
    };
    logging::start(cli.log_level, matches!(cli.log_format, LogFormat::Json));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot start");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(run::run(cli)).unwrap_or_else(|error| {
        tracing::error!(%error, "cannot run");
        error.exit_code()
    })
}
