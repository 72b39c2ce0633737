//! Sockets and connections.
//!
//! nsqd never times out an idle connection, so neither does this: pooled producers would find dead ones. When draining, nothing
//! new is accepted, requests under way are answered, and each connection closes after its answer.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    GatewayConfig,
    handlers::{self, Answer, Gateway},
    publish::Publisher,
    replies::{Error, Reply},
};

/// Go's limit for a request's head.
const MAX_HEAD_BYTES: usize = 1024 * 1024;
const MAX_HEADERS: usize = 1_000;
/// After an accept that failed, most likely for want of file descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Serves until `drain`, then until every request under way is answered.
///
/// # Cancellation
/// Dropping the future closes every connection; what was being published has an unknown outcome for its producer.
pub async fn serve(
    listener: TcpListener,
    publisher: Arc<Publisher>,
    config: GatewayConfig,
    drain: CancellationToken,
) {
    let gateway = Arc::new(Gateway { publisher, config });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = drain.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&gateway), drain.clone()));
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            },
        }
    }
    drop(listener);
    info!(connections = connections.len(), "draining");
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, gateway: Arc<Gateway>, drain: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY");
    }
    let draining = drain.clone();
    let service = service_fn(move |request| {
        let gateway = Arc::clone(&gateway);
        let exiting = draining.is_cancelled();
        async move {
            let answer = if exiting {
                Answer { reply: Reply::Error(Error::Exiting), close: true }
            } else {
                handlers::handle(&gateway, request).await
            };
            let mut response = answer.reply.into_response();
            if answer.close {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let serving = http1::Builder::new()
        // nsqd's headers are written `X-Nsq-Content-Type`, and some clients compare them as they are.
        .title_case_headers(true)
        .half_close(true)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = drain.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}
