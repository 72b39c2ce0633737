//! Makes sure that the name server knows a broker that says it has started.
//!
//! A broker of line 5 registers at its start only with name servers it has already connected to in the background, and
//! on a busy machine that connection often comes a moment too late: it says "boot success", is unknown, and tries again
//! only ten seconds later. So the name server has the last word on readiness, and a broker that missed its moment is told
//! to register now. Two requests are all that is needed, so they are spelled out here instead of borrowing the client
//! under test.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(2);
const GET_BROKER_CLUSTER_INFO: u32 = 106;
const UPDATE_BROKER_CONFIG: u32 = 25;
/// More than any cluster of a test fills.
const LONGEST: u32 = 1 << 20;

/// Whether the name server lists `broker`; `None` if it does not answer, as when it is down or insists on TLS.
pub(crate) fn lists(name_server: SocketAddr, broker: &str) -> Option<bool> {
    // In the answer every address stands in quotes, so a longer port does not match by accident.
    let quoted = format!("\"{broker}\"");
    let answer = ask(name_server, GET_BROKER_CLUSTER_INFO, b"").ok()?;
    Some(String::from_utf8_lossy(&answer).contains(&quoted))
}

/// Tells a broker to register now, by giving it the permission it has.
///
/// It saves its configuration then, with every key there is; the file is put back as it was. A broker that refuses, as
/// with access control, registers on its own after ten seconds.
pub(crate) fn nudge(broker: SocketAddr, conf: &Path) -> io::Result<()> {
    let before = fs::read_to_string(conf)?;
    let set = before.lines().rev().find_map(|line| line.strip_prefix("brokerPermission="));
    let update = format!("brokerPermission={}\n", set.unwrap_or("6").trim());
    ask(broker, UPDATE_BROKER_CONFIG, update.as_bytes())?;
    fs::write(conf, before)
}

/// Sends one request and returns the answer's header and body.
///
/// Frame: length of the rest, length of the header (its first byte 0: JSON), header, body.
fn ask(server: SocketAddr, code: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let header = format!(r#"{{"code":{code},"language":"JAVA","version":409,"opaque":1,"flag":0}}"#);
    let length = |bytes: usize| u32::try_from(bytes).map(u32::to_be_bytes).map_err(io::Error::other);
    let mut frame = Vec::new();
    frame.extend(length(4 + header.len() + body.len())?);
    frame.extend(length(header.len())?);
    frame.extend(header.as_bytes());
    frame.extend(body);
    stream.write_all(&frame)?;

    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::Error::other("the answer is no RocketMQ frame"));
    }
    let mut rest = vec![0; length as usize];
    stream.read_exact(&mut rest)?;
    Ok(rest)
}
