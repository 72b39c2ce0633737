//! Reads request bodies, and leaves them unread without hurting the client.
//!
//! nsqd refuses some requests before it has read their bodies. What happens to the rest decides whether the client ever
//! sees the answer: a connection closed over unread bytes is reset, and the answer with it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    Request, Version,
    body::{Body as _, Incoming},
    header::EXPECT,
    http::request::Parts,
};

use tokio::time::timeout;

use super::{admission::Permit, replies::Error};

/// A rest smaller than this is read before the answer, as nsqd does, and the connection lives on; with a larger one it
/// ends (Go's `maxPostHandlerReadBytes`).
const READ_FIRST_BYTES: u64 = 256 * 1024;
/// A smaller body would keep a connection's whole buffer for as long as it waits.
pub(super) const COPIED_BELOW: usize = 16 * 1024;
/// How long a rest is read before the answer, and again beside it (Go's `rstAvoidanceDelay`).
pub(super) const READ_ON_FOR: Duration = Duration::from_millis(500);

/// A request's body, not read yet.
pub(super) struct Body {
    incoming: Incoming,
    /// The client sends it only when it is asked to (`Expect: 100-continue`); hyper asks when it is first read.
    awaits_continue: bool,
    /// How long it may take to come: while it is read it holds room that others need.
    within: Duration,
}

/// Takes a request apart; its body may take so long to come.
pub(super) fn open(request: Request<Incoming>, within: Duration) -> (Parts, Body) {
    let (head, incoming) = request.into_parts();
    let awaits_continue = head.version >= Version::HTTP_11 && head.headers.contains_key(EXPECT);
    (head, Body { incoming, awaits_continue, within })
}

impl Body {
    /// The bytes its `Content-Length` announces that are not read yet; 0 when it has none.
    pub(super) fn announced(&self) -> u64 {
        self.incoming.size_hint().exact().unwrap_or(0)
    }

    /// Reads it whole; of a body beyond `limit` the first `limit + 1` bytes, whatever more came along with them. `permit`
    /// grows with what is held.
    pub(super) async fn read(&mut self, limit: usize, permit: &mut Permit) -> Result<Bytes, Error> {
        let within = self.within;
        timeout(within, self.read_on(limit, permit)).await.unwrap_or(Err(Error::Unreadable))
    }

    async fn read_on(&mut self, limit: usize, permit: &mut Permit) -> Result<Bytes, Error> {
        let most = limit.saturating_add(1);
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        permit.grow(first.len())?;
        let mut next = if first.len() >= most { None } else { self.chunk().await? };
        if next.is_none() {
            let first = first.slice(..first.len().min(most));
            // A small body is a slice of the connection's buffer, and would keep all of it for as long as it waits.
            return Ok(if first.len() < COPIED_BELOW { Bytes::copy_from_slice(&first) } else { first });
        }
        // Joined as it comes: a body may arrive in very many very small chunks.
        let mut whole = BytesMut::with_capacity(
            usize::try_from(self.announced()).unwrap_or(usize::MAX).saturating_add(first.len()).min(most),
        );
        whole.extend_from_slice(&first);
        while let Some(chunk) = next {
            permit.grow(chunk.len())?;
            whole.extend_from_slice(&chunk);
            next = if whole.len() >= most { None } else { self.chunk().await? };
        }
        whole.truncate(most);
        Ok(whole.freeze())
    }

    /// Reads it to its end and keeps nothing, as nsqd does with the body of a request that needs none.
    pub(super) async fn finish(&mut self) -> Result<(), Error> {
        let within = self.within;
        let reading = async {
            while self.chunk().await.map_err(|_| Error::InvalidRequest)?.is_some() {}
            Ok(())
        };
        timeout(within, reading).await.unwrap_or(Err(Error::Unreadable))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.awaits_continue = false;
        while let Some(frame) = self.incoming.frame().await {
            match frame.map_err(|_| Error::Unreadable)?.into_data() {
                Ok(chunk) if !chunk.is_empty() => return Ok(Some(chunk)),
                _trailers_or_nothing => {}
            }
        }
        Ok(None)
    }

    /// Leaves the rest unused; whether the connection must end for it.
    ///
    /// A large rest is read on for a while beside the answer, so that a client still sending gets to see it.
    pub(super) async fn leave(mut self) -> bool {
        if self.incoming.is_end_stream() {
            return false;
        }
        if self.awaits_continue {
            // Reading would ask for the body. Some clients send it unasked, though: they get the time to see the answer.
            tokio::spawn(async move {
                tokio::time::sleep(READ_ON_FOR).await;
                drop(self);
            });
            return true;
        }
        if self.announced() < READ_FIRST_BYTES {
            let reading = timeout(READ_ON_FOR, self.skip(READ_FIRST_BYTES));
            if reading.await == Ok(true) {
                return false;
            }
        }
        tokio::spawn(async move { timeout(READ_ON_FOR, self.skip(u64::MAX)).await });
        true
    }

    /// Reads on until it ends or `most` bytes are read; whether it ended.
    async fn skip(&mut self, most: u64) -> bool {
        let mut skipped = 0;
        while skipped < most {
            match self.chunk().await {
                Ok(Some(chunk)) => skipped += chunk.len() as u64,
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
        false
    }
}
