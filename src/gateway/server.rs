//! Sockets and connections: HTTP's here, those of nsqd's TCP protocol in [`super::tcp`]. Both count against one bound.
//!
//! nsqd never times out an idle connection, so neither does this: pooled producers would find dead ones. A producer whose host
//! is gone without a word is noticed by the system's keep-alive, as nsqd's are.
//!
//! # Draining
//! Nothing new is accepted, and what is under way is answered. A request that still comes over an open connection hears
//! 503 `EXITING`, and every answer says `Connection: close`, so that a producer moves on between two requests and
//! not in the middle of one. A connection nothing comes over is closed after [`LAST_REQUEST_WITHIN`]; one whose request does
//! not come to its end, or whose answer is not taken, after [`LAST_ANSWER_WITHIN`] and the time a publish may take. A TCP
//! connection takes no further command, and ends with its last answer.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    GatewayConfig,
    handlers::{self, Gateway},
    publish::Publisher,
    tcp::{self, producers::Producers},
};
use crate::{observe::logging::Throttle, rocketmq::producer::unix_millis};

/// The longest head of a request. Go takes 1 MiB; so much for each connection is more than a producer ever sends and
/// less than an enemy would like to.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// hyper makes room for so many with each request: 1,000 cost it a tenth of its time, and no producer sends 256.
const MAX_HEADERS: usize = 256;
/// After an accept that failed, most likely for want of file descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// When a silent producer is asked whether it is still there, and how often until its connection ends (Go's listeners).
const KEEP_ALIVE: (Duration, u32) = (Duration::from_secs(15), 9);
/// How long an idle connection stays open once draining has begun, for a request that is on its way.
const LAST_REQUEST_WITHIN: Duration = Duration::from_millis(500);
/// How long a producer may take for the rest of a request, and for the answer, once draining has begun.
pub(super) const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Where producers connect.
#[derive(Debug)]
pub struct Listeners {
    /// For nsqd's HTTP API.
    pub http: TcpListener,
    /// For nsqd's TCP protocol.
    pub tcp: Option<TcpListener>,
}

/// Serves until `drain`, then until every request under way is answered and every publish has its outcome.
///
/// # Cancellation
/// Dropping the future closes every connection; what was being published has an unknown outcome for its producer.
pub async fn serve(
    listeners: Listeners,
    publisher: Arc<Publisher>,
    config: GatewayConfig,
    drain: CancellationToken,
) {
    let gateway = Arc::new(Gateway {
        publisher,
        config,
        http_address: listeners.http.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0))),
        tcp_address: listeners.tcp.as_ref().and_then(|listener| listener.local_addr().ok()),
        producers: Producers::default(),
        asking_depths: tokio::sync::Mutex::default(),
        started_at: unix_millis() / 1_000,
        drain: drain.clone(),
        failures: Throttle::default(),
    });
    let turned_away = Throttle::default();
    let mut connections = JoinSet::new();
    let (mut http_failing, mut tcp_failing) = (false, false);
    loop {
        let (accepted, speaks_http) = tokio::select! {
            () = drain.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listeners.http, &mut http_failing) => (accepted, true),
            accepted = accept_if_any(listeners.tcp.as_ref(), &mut tcp_failing) => (accepted, false),
        };
        let Some(stream) = accepted else { continue };
        if connections.len() >= gateway.config.max_connections {
            if let Some(left_out) = turned_away.pass() {
                warn!(left_out, "new connections refused: --max-connections are open");
            }
        } else if speaks_http {
            connections.spawn(http_connection(stream, Arc::clone(&gateway)));
        } else {
            connections.spawn(tcp_connection(stream, Arc::clone(&gateway)));
        }
    }
    drop(listeners);
    info!(connections = connections.len(), requests = gateway.publisher.under_way(), "draining");
    while connections.join_next().await.is_some() {}
    gateway.publisher.drain().await;
}

/// The next connection; `None` after a failure, which is logged once until accepting works again.
async fn accept(listener: &TcpListener, failing: &mut bool) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((stream, _)) => {
            *failing = false;
            Some(stream)
        }
        Err(error) => {
            if !std::mem::replace(failing, true) {
                warn!(%error, "cannot accept connections; will keep trying");
            }
            tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            None
        }
    }
}

async fn accept_if_any(listener: Option<&TcpListener>, failing: &mut bool) -> Option<TcpStream> {
    match listener {
        Some(listener) => accept(listener, failing).await,
        None => std::future::pending().await,
    }
}

async fn tcp_connection(stream: TcpStream, gateway: Arc<Gateway>) {
    let _open = Open::new(&stream, &gateway.publisher);
    tcp::connection(stream, &gateway).await;
}

async fn http_connection(stream: TcpStream, gateway: Arc<Gateway>) {
    let _open = Open::new(&stream, &gateway.publisher);
    let service = service_fn(|request| {
        let gateway = Arc::clone(&gateway);
        async move {
            let answer = handlers::handle(&gateway, request).await;
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
        // A client may send its request, end its side and wait, as `nc -N` does; nsqd answers it.
        .half_close(true)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let idle_for_good = async {
        gateway.drain.cancelled().await;
        tokio::time::sleep(LAST_REQUEST_WITHIN).await;
    };
    let ended = tokio::select! {
        // In this order: a request that has come is seen before its connection is taken for idle.
        biased;
        ended = serving.as_mut() => ended,
        () = idle_for_good => {
            serving.as_mut().graceful_shutdown();
            let within = LAST_ANSWER_WITHIN + gateway.publisher.budget();
            let Ok(ended) = tokio::time::timeout(within, serving).await else {
                debug!("connection closed: its producer holds the drain up");
                return;
            };
            ended
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    let (every, times) = KEEP_ALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, every)?;
    sockopt::set_tcp_keepintvl(stream, every)?;
    sockopt::set_tcp_keepcnt(stream, times)
}

/// A connection as long as it is open: counted, and with the options every one has.
struct Open<'a>(&'a Publisher);

impl<'a> Open<'a> {
    fn new(stream: &TcpStream, publisher: &'a Publisher) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY");
        }
        if let Err(error) = keep_alive(stream) {
            debug!(%error, "SO_KEEPALIVE");
        }
        publisher.metrics().connections.inc();
        Self(publisher)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics().connections.dec();
    }
}
