//! The admin listener when it can be reached from other machines: TLS, a token, or no start.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use nsqbridge_brokers::ports::Ports;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

use crate::{
    bridge::{Program, SOON, blocking, eventually},
    guarded::Certificates,
};

const TOKEN: &str = "s3same-0pen";

/// A gateway that finds no broker, which its admin listener does not need.
fn start(admin: &str, flags: &[&str]) -> (Program, SocketAddr, Ports) {
    let ports = Ports::claim().unwrap();
    let admin = format!("{admin}:{}", ports.get(1));
    let http = format!("127.0.0.1:{}", ports.get(0));
    let fixed = ["gateway", "-n", "127.0.0.1:1", "--http-address", &http, "--admin-address", &admin];
    let arguments: Vec<String> = fixed.iter().chain(flags).map(|&text| text.to_owned()).collect();
    let reached = SocketAddr::from(([127, 0, 0, 1], ports.get(1)));
    (Program::start("gateway", &arguments), reached, ports)
}

fn refused(flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nsqbridge"));
    command.env_clear().env("NSQBRIDGE_TCP_ADDRESS", "");
    command.args(["gateway", "-n", "127.0.0.1:1", "--http-address", "127.0.0.1:0"]).args(flags);
    command.output().unwrap()
}

/// The status and the rest of the answer to one request.
async fn ask<S>(mut stream: S, path: &str, authorization: Option<&str>) -> std::io::Result<(u16, String)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let authorization = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{authorization}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await??;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, answer))
}

/// The status and the rest of the answer to one request without TLS.
pub async fn plainly(
    address: SocketAddr,
    path: &str,
    authorization: Option<&str>,
) -> std::io::Result<(u16, String)> {
    ask(TcpStream::connect(address).await?, path, authorization).await
}

async fn over_tls(
    address: SocketAddr,
    ca: &Path,
    path: &str,
    authorization: Option<&str>,
) -> std::io::Result<(u16, String)> {
    let mut roots = RootCertStore::empty();
    for certificate in nsqbridge::pem::certificates(ca).unwrap() {
        roots.add(certificate).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    ask(TlsConnector::from(Arc::new(config)).connect(name, stream).await?, path, authorization).await
}

#[test]
fn open_to_other_machines_it_does_not_start_and_says_how_to_mend_that() {
    let folder = Certificates::make();
    let (cert, key) = (folder.path("server.pem"), folder.path("server.key"));
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let (empty, other) = (folder.path("empty"), Certificates::make());
    std::fs::write(&empty, "").unwrap();
    let (empty, other) = (empty.to_str().unwrap(), other.path("server.key"));
    for (flags, says) in [
        (&["--admin-address", "0.0.0.0:0"][..], "--admin-tls-cert"),
        (&["--admin-address", "0.0.0.0:0"], "NSQBRIDGE_ADMIN_TOKEN"),
        (&["--admin-address", "[::]:0", "--admin-insecure=false"], "--admin-insecure"),
        (&["--admin-tls-cert", cert], "need each other"),
        (&["--admin-tls-cert", "/no/such.pem", "--admin-tls-key", key], "/no/such.pem"),
        (&["--admin-tls-cert", cert, "--admin-tls-key", empty], "empty"),
        (&["--admin-tls-cert", key, "--admin-tls-key", key], "holds no certificate"),
        (&["--admin-tls-cert", cert, "--admin-tls-key", other.to_str().unwrap()], "cannot be used"),
        (&["--admin-token-file", "/no/such/token"], "/no/such/token"),
        (&["--admin-token-file", empty], "is empty"),
    ] {
        let output = refused(flags);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{flags:?}: {errors}");
        assert!(errors.contains(says) && !errors.contains("gateway ready"), "{flags:?}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_only_who_has_the_token_is_answered_and_over_tls() {
    let files = Certificates::make();
    std::fs::write(files.path("token"), format!("{TOKEN}\n")).unwrap();
    let paths = ["server.pem", "server.key", "token"].map(|name| files.path(name).display().to_string());
    let flags =
        ["--admin-tls-cert", &paths[0], "--admin-tls-key", &paths[1], "--admin-token-file", &paths[2]];
    let (_program, address, _ports) = start("0.0.0.0", &flags);
    let (ca, bearer) = (files.path("ca.pem"), format!("Bearer {TOKEN}"));
    let alive = async || over_tls(address, &ca, "/livez", None).await.is_ok_and(|(status, _)| status == 200);
    eventually("it is alive, which nobody needs a token to learn", SOON, alive).await;

    for path in ["/metrics", "/readyz", "/readyz?format=json", "/", "/else"] {
        for shown in [None, Some("Bearer s3same-0pem"), Some("Bearer s3same-0pen2"), Some(TOKEN)] {
            let (status, answer) = over_tls(address, &ca, path, shown).await.unwrap();
            assert!(
                status == 401 && answer.contains("www-authenticate: Bearer"),
                "{path} {shown:?}: {answer}"
            );
            assert!(!answer.contains("nsqbridge"), "{answer}");
        }
    }
    let (status, answer) = over_tls(address, &ca, "/metrics", Some(&bearer)).await.unwrap();
    assert!(status == 200 && answer.contains("nsqbridge_gateway_connections"), "{answer}");
    let (status, answer) = over_tls(address, &ca, "/readyz", Some(&bearer)).await.unwrap();
    assert!(status == 503 && answer.contains("not ready"), "there is no broker: {answer}");

    assert!(plainly(address, "/livez", None).await.is_err(), "without TLS nobody is answered");
    let stranger = Certificates::make();
    assert!(over_tls(address, &stranger.path("ca.pem"), "/livez", None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_never_speak_tls_do_not_keep_it_from_others() {
    let files = Certificates::make();
    let paths = ["server.pem", "server.key"].map(|name| files.path(name).display().to_string());
    let flags = ["--admin-tls-cert", &paths[0], "--admin-tls-key", &paths[1]];
    let (program, address, _ports) = start("127.0.0.1", &flags);
    let ca = files.path("ca.pem");
    let alive = async || over_tls(address, &ca, "/livez", None).await.is_ok_and(|(status, _)| status == 200);
    eventually("it is alive", SOON, alive).await;
    let mut silent = Vec::new();
    for _ in 0..63 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let (status, _) = over_tls(address, &ca, "/metrics", None).await.unwrap();
    assert_eq!(status, 200, "loopback needs no token");
    // All places are taken now; the handshakes that never come end by themselves.
    silent.push(TcpStream::connect(address).await.unwrap());
    silent.push(TcpStream::connect(address).await.unwrap());
    eventually("a place is free again", SOON, alive).await;
    program.signal("TERM").unwrap();
    assert_eq!(blocking(|| program.wait(SOON)).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_alone_and_the_word_that_none_is_wanted_are_enough_to_start() {
    let files = Certificates::make();
    std::fs::write(files.path("token"), TOKEN).unwrap();
    let token = files.path("token").display().to_string();
    let (program, address, _ports) = start("0.0.0.0", &["--admin-token-file", &token]);
    let alive = async |address| plainly(address, "/livez", None).await.is_ok_and(|(status, _)| status == 200);
    eventually("it is alive", SOON, async || alive(address).await).await;
    let (status, _) = plainly(address, "/metrics", None).await.unwrap();
    assert_eq!(status, 401);
    let (status, _) = plainly(address, "/metrics", Some(&format!("bearer {TOKEN}"))).await.unwrap();
    assert_eq!(status, 200);
    let log = program.logged();
    assert!(log.contains("can be read on the way") && !log.contains(TOKEN), "{log}");

    let (_program, address, _ports) = start("0.0.0.0", &["--admin-insecure"]);
    eventually("it is alive", SOON, async || alive(address).await).await;
    assert_eq!(plainly(address, "/metrics", None).await.unwrap().0, 200);
}
