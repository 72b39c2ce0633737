//! What monitoring asks a process, on an address of its own, so that nothing of it is open to producers.
//!
//! | | |
//! |---|---|
//! | `/livez` | 200 while the process runs |
//! | `/readyz` | 200 while every role can do its work, else 503; lists each dependency, as JSON with `?format=json` |
//! | `/metrics` | what Prometheus scrapes |
//!
//! On loopback everybody may ask. Beyond it [`Guard`] demands TLS or a token, or a word that neither is wanted: topic names and
//! addresses are nobody else's business. `/livez` tells nothing and needs no token, for load balancers have none.

mod guard;

use std::{convert::Infallible, fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use self::guard::{Guard, GuardError, GuardSettings};
use super::{
    health::{Dependency, Readiness},
    metrics,
};

/// A scraper and some people; whoever comes on top waits.
const CONNECTIONS: usize = 64;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// For a request's head, and for taking the last answer.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
/// A connection is closed in order after this time, so that one that is never used up gives its place to others.
const OPEN_FOR: Duration = Duration::from_secs(300);
const TEXT: &str = "text/plain; charset=utf-8";

/// What is served.
pub struct Admin {
    /// What is counted.
    pub registry: Registry,
    /// What the roles depend on.
    pub readiness: Vec<Readiness>,
    /// Once cancelled, the process is not ready any more.
    pub drain: CancellationToken,
    /// Who may ask.
    pub guard: Guard,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, admin: Admin) {
    let admin = Arc::new(admin);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "cannot accept an admin connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            connection(stream, admin).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, admin: Arc<Admin>) {
    let Some(tls) = admin.guard.tls() else { return converse(stream, &admin).await };
    match timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, &admin).await,
        Ok(Err(error)) => debug!(%error, "no TLS on an admin connection"),
        Err(_) => debug!("no TLS on an admin connection in time"),
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, admin: &Admin) {
    let service = service_fn(|request| {
        let response = answer(admin, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        () = sleep(OPEN_FOR) => {
            serving.as_mut().graceful_shutdown();
            timeout(REQUEST_WITHIN, serving).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        debug!(%error, "admin connection ended");
    }
}

fn answer(admin: &Admin, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
    }
    if request.uri().path() == "/livez" {
        return respond(StatusCode::OK, TEXT, "ok\n");
    }
    if !admin.guard.admits(request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes)) {
        let mut response = respond(StatusCode::UNAUTHORIZED, TEXT, "Authorization: Bearer TOKEN is needed\n");
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    match request.uri().path() {
        "/readyz" => ready(admin, request.uri().query().is_some_and(|query| query.contains("format=json"))),
        "/metrics" => match metrics::text(&admin.registry) {
            Ok(text) => respond(StatusCode::OK, metrics::CONTENT_TYPE, text),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        "/" => respond(StatusCode::OK, TEXT, "/livez\n/readyz\n/metrics\n"),
        _ => respond(StatusCode::NOT_FOUND, TEXT, "there are /livez, /readyz and /metrics\n"),
    }
}

fn ready(admin: &Admin, as_json: bool) -> Response<Full<Bytes>> {
    let mut dependencies: Vec<Dependency> = admin.readiness.iter().flat_map(|look| look()).collect();
    if admin.drain.is_cancelled() {
        dependencies.insert(0, Dependency::vital("process", Err("stopping".to_owned())));
    }
    let ready = dependencies.iter().all(|dependency| dependency.ok || !dependency.vital);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if as_json {
        let body = json!({ "ready": ready, "dependencies": dependencies });
        return respond(status, "application/json", body.to_string());
    }
    let mut text = String::new();
    for Dependency { name, ok, detail, .. } in &dependencies {
        let _ = if *ok { writeln!(text, "[+] {name}: ok") } else { writeln!(text, "[-] {name}: {detail}") };
    }
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    respond(status, TEXT, text)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
