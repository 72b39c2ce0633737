//! What no producer, nsqd or broker in its right mind does: the program holds no more memory than it may, refuses by name, serves
//! the others, gives everything back, and tells no secret.

mod clients;
mod peers;
mod secrets;
mod topics;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::bridge::{Gateway, SOON};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Sends bytes over a connection of their own, and reads what comes until it closes. The client may be cut off in the middle of
/// sending.
async fn exchange(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let talking = async {
        let sending = async {
            if write.write_all(bytes).await.is_ok() {
                let _ = write.shutdown().await;
            }
        };
        let _ = tokio::join!(sending, read.read_to_end(&mut answer));
    };
    tokio::time::timeout(SOON, talking).await.expect("the connection ends");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of an answer; 0 for none.
fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
