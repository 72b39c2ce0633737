//! The place of a relay that does not run yet, given to it by whoever moves a channel by share ([`super::gate`]).
//!
//! It is written as the relay's own record, for that is what a relay goes by: an offset that somebody else has committed would be a jump. A
//! former instance that has slept has its pages no longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::undrained::{
    Snapshot,
    journal::{Entry, Journal, JournalError, Page},
};
use crate::{
    mapping::{Feed, Names},
    rocketmq::{Cluster, Queue, reader::LOOKER},
};

/// The record of a relay that does not run.
pub struct Record(BTreeMap<Queue, Page>);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why a relay has not got its place.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotPlaced(#[from] Cause);

#[derive(Debug, thiserror::Error)]
enum Cause {
    /// RocketMQ cannot be asked or does not take it, or somebody else has written since the record was opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The topic has got another queue since.
    #[error("{0} is new: it was not there when the record was opened")]
    New(Queue),
}

impl Record {
    /// Opens the record for these queues, and creates it where there is none.
    ///
    /// # Errors
    /// When RocketMQ cannot be asked; repeating is safe.
    pub async fn open(
        cluster: &Cluster,
        names: &Names,
        feed: &Feed,
        queues: &BTreeSet<Queue>,
    ) -> Result<Self, NotPlaced> {
        let journal = Arc::new(Journal::new(cluster.clone(), names, feed, LOOKER));
        let mut pages = BTreeMap::new();
        for queue in queues {
            pages.insert(queue.clone(), journal.open(queue).await.map_err(Cause::from)?.0);
        }
        Ok(Self(pages))
    }

    /// Writes down that the relay is to begin at these places. What an earlier one has left in nsqds is not its concern.
    ///
    /// # Errors
    /// See [`NotPlaced`].
    pub async fn write(&mut self, places: &BTreeMap<Queue, i64>) -> Result<(), NotPlaced> {
        for (queue, &relayed) in places {
            let page = self.0.get_mut(queue).ok_or_else(|| Cause::New(queue.clone()))?;
            page.write(Entry {
                relayed,
                stored_ms: None,
                undrained: Snapshot::default(),
                homes: BTreeSet::new(),
                unaudited: None,
            })
            .await
            .map_err(Cause::from)?;
        }
        Ok(())
    }
}
