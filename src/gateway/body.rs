//! Reads request bodies, and leaves them unread without hurting the client.
//!
//! nsqd refuses some requests before it has read their bodies. What happens to the rest decides whether the client ever
//! sees the answer: a connection closed over unread bytes is reset, and the answer with it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Body as _, Incoming},
    header::EXPECT,
    http::request::Parts,
};

use super::replies::Error;

/// As much of a refused body nsqd reads before it answers; beyond it, it answers at once and closes.
const READ_FIRST_BYTES: u64 = 256 * 1024;
/// How long a refused body is read before, or beside, the answer.
const READ_ON_FOR: Duration = Duration::from_millis(500);

/// A request's body, not read yet.
pub(super) struct Body {
    incoming: Incoming,
    /// The client sends it only when it is asked to (`Expect: 100-continue`); hyper asks when it is first read.
    awaits_continue: bool,
}

/// An error, and whether the connection ends with it.
pub(super) struct Refusal {
    pub(super) error: Error,
    pub(super) close: bool,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, close: false }
    }
}

/// Takes a request apart.
pub(super) fn open(request: Request<Incoming>) -> (Parts, Body) {
    let (head, incoming) = request.into_parts();
    let awaits_continue = head.headers.contains_key(EXPECT);
    (head, Body { incoming, awaits_continue })
}

impl Body {
    /// The bytes its `Content-Length` announces; 0 when it has none.
    pub(super) fn announced(&self) -> u64 {
        self.incoming.size_hint().exact().unwrap_or(0)
    }

    /// Reads it whole; `too_big` when it has more than `limit` bytes.
    pub(super) async fn read(mut self, limit: usize, too_big: Error) -> Result<Bytes, Refusal> {
        if self.announced() > limit as u64 {
            return Err(self.refuse(too_big).await);
        }
        self.awaits_continue = false;
        let mut chunks: Vec<Bytes> = Vec::new();
        let mut len = 0;
        while let Some(frame) = self.incoming.frame().await {
            let Ok(chunk) = frame.map_err(|_| Error::Unreadable)?.into_data() else { continue };
            len += chunk.len();
            if len > limit {
                return Err(self.refuse(too_big).await);
            }
            chunks.push(chunk);
        }
        Ok(match &mut chunks[..] {
            [whole] => std::mem::take(whole),
            chunks => chunks.concat().into(),
        })
    }

    /// An error that leaves the rest of the body unread.
    pub(super) async fn refuse(self, error: Error) -> Refusal {
        Refusal { error, close: self.leave().await }
    }

    /// Leaves the rest unused; whether the connection must end for it.
    ///
    /// A small rest is read first, as nsqd does, and the connection lives on. A large one is read on for a while beside
    /// the answer, so that a client still sending gets to see it.
    pub(super) async fn leave(mut self) -> bool {
        if self.awaits_continue && !self.incoming.is_end_stream() {
            return true;
        }
        let small = self.incoming.size_hint().upper().is_some_and(|rest| rest <= READ_FIRST_BYTES);
        let reading = async move {
            let to_the_end = async { while let Some(Ok(_)) = self.incoming.frame().await {} };
            tokio::time::timeout(READ_ON_FOR, to_the_end).await.is_ok()
        };
        if small {
            return !reading.await;
        }
        tokio::spawn(reading);
        true
    }
}
