//! The smallest HTTP client that can ask NSQ's servers how they are.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::{Error, Result};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Gets `path` from the server at `addr`: status and body.
///
/// # Errors
/// No connection, no answer within 5 seconds, or an answer that is not HTTP.
pub fn get(addr: SocketAddr, path: &str) -> Result<(u16, String)> {
    let failed = |e: std::io::Error| Error::new(format!("GET http://{addr}{path}: {e}"));
    let mut stream = TcpStream::connect_timeout(&addr, TIMEOUT).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    // HTTP/1.0, so that the body is never chunked and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;

    let answer = String::from_utf8_lossy(&answer);
    let status =
        answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
        _ => Err(Error::new(format!("GET http://{addr}{path}: not an HTTP answer: {answer:.80}"))),
    }
}
