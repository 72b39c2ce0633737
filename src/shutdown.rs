//! Signals, and what they mean: the first SIGTERM or SIGINT drains, the second stops now.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The two wishes a running process obeys.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, finish what was begun.
    pub drain: CancellationToken,
    /// Stop at once; what is unfinished is repeated by whoever comes next.
    pub force: CancellationToken,
}

impl Shutdown {
    /// Begins to listen for signals.
    ///
    /// # Errors
    /// When the system refuses signal handlers.
    pub fn on_signals() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::default();
        let told = shutdown.clone();
        tokio::spawn(async move {
            let name = either(&mut terminate, &mut interrupt).await;
            info!(signal = name, "stopping: finishing what was begun; a second signal stops now");
            told.drain.cancel();
            let name = either(&mut terminate, &mut interrupt).await;
            warn!(signal = name, "stopping now");
            told.force.cancel();
        });
        Ok(shutdown)
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
