//! Asks a RocketMQ name server whether it knows a broker.
//!
//! A broker says "boot success" even if it could not register, so the name server has the last word. One request is
//! all that is needed, so it is spelled out here instead of borrowing the client under test.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(2);
/// GET_BROKER_CLUSTER_INFO.
const HEADER: &[u8] = br#"{"code":106,"language":"JAVA","version":409,"opaque":1,"flag":0}"#;
/// More than any cluster of a test fills.
const LONGEST: u32 = 1 << 20;

/// Whether the name server lists `broker`; `None` if it does not answer, as when it is down or insists on TLS.
pub(crate) fn lists(name_server: SocketAddr, broker: &str) -> Option<bool> {
    // In the answer every address stands in quotes, so a longer port does not match by accident.
    let quoted = format!("\"{broker}\"");
    let answer = ask(name_server).ok()??;
    Some(String::from_utf8_lossy(&answer).contains(&quoted))
}

/// Frame: length of the rest, length of the header (its first byte 0: JSON), header, body.
fn ask(name_server: SocketAddr) -> std::io::Result<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect_timeout(&name_server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let header_len = HEADER.len() as u32;
    let mut frame = Vec::with_capacity(8 + HEADER.len());
    frame.extend((4 + header_len).to_be_bytes());
    frame.extend(header_len.to_be_bytes());
    frame.extend(HEADER);
    stream.write_all(&frame)?;

    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Ok(None);
    }
    let mut rest = vec![0; length as usize];
    stream.read_exact(&mut rest)?;
    Ok(Some(rest))
}
