//! Where the relay of a queue begins, and what is made of a committed offset that is not where this bridge left it.
//!
//! The broker says what is committed for the group; the relay's own record ([`super::undrained::journal`]) says up to where everything is
//! relayed. It is written before each commit, so the two differ when a relay died between the two, when a broker that crashed went
//! back to the offsets it last wrote to its disk (every 5 s), or when somebody else set the offset.
//!
//! | the committed offset | `hold` | `continue` | `replay` |
//! |---|---|---|---|
//! | is the record, or there is no record | begin there | begin there | begin there |
//! | was never committed, and no record | the oldest message | the oldest | the oldest |
//! | lies before the record, or is gone | refuse it: the record | refuse it: the record | the committed offset |
//! | lies behind the record | hold the queue | the committed offset, missing what lies between | the record |
//! | is gone, and other messages stand where the record says | the oldest message | the oldest | the oldest |
//! | is there, and other messages stand where the record says | hold the queue | as without a record | the oldest |
//! | where to begin has expired | hold the queue | the oldest message, missing what expired | the same |
//! | where to begin lies beyond the queue's end | hold the queue | the end | the oldest message |
//!
//! What is left of a share is given its place by a cutover ([`super::gate`]), as a record: a queue without one is held where the table
//! says `hold`.
//!
//! To go on from the record is exact: nothing below it is relayed twice, and nothing behind it is missed. It holds as long as the messages
//! are those the record was written about: the last of them is looked at, for a topic may have been deleted and recreated.

use std::time::Duration;

use tracing::{error, warn};

use super::{
    held::{Held, OnGap},
    queue::QueueRelay,
    state::QueueState,
    undrained::{
        Undrained,
        journal::{Entry, Page},
    },
};
use crate::{
    mapping::Feed,
    rocketmq::{
        Queue, QueueReader,
        offsets::Commit,
        reader::{Bounds, Pull},
    },
};

/// A queue's relay that may begin.
pub(super) struct Begun {
    pub(super) offset: i64,
    /// When the message before it was stored, if that is known.
    pub(super) stored_ms: Option<i64>,
    pub(super) page: Page,
    pub(super) undrained: Undrained,
    /// What a former owner's audit lacks: the first and the last minute.
    pub(super) unaudited: Option<(i64, i64)>,
}

/// What is known before.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// By the record, everything below is relayed.
    relayed: Option<i64>,
    committed: Option<i64>,
    bounds: Bounds,
    /// The record is about other messages than those that are there.
    renewed: bool,
}

/// Where to begin, and what must be said of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Beginning {
    offset: i64,
    jumps: Vec<Jump>,
}

/// An offset that is not where it was left, and what is made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Jump {
    /// The committed offset went back.
    Back { relayed: i64, committed: Option<i64>, followed: bool },
    /// The committed offset went ahead.
    Ahead { relayed: i64, committed: i64, followed: bool },
    /// These have expired: first, and one past the last.
    Expired { from: i64, to: i64 },
    /// Other messages stand where the record says.
    Renewed { relayed: i64 },
    /// There was to be begun beyond the queue's end.
    BeyondEnd { offset: i64 },
}

/// What a person must decide.
#[derive(Debug, PartialEq, Eq)]
enum Undecided {
    Ahead { relayed: i64, committed: i64 },
    Renewed { relayed: i64, committed: i64 },
    OutOfRange { offset: i64 },
}

impl Undecided {
    fn held(self, queue: &Queue, bounds: Bounds) -> Held {
        let queue = queue.clone();
        match self {
            Self::Ahead { relayed, committed } => Held::Ahead { queue, relayed, committed },
            Self::Renewed { relayed, committed } => Held::Renewed { queue, relayed, committed, bounds },
            Self::OutOfRange { offset } => Held::OutOfRange { queue, offset, bounds },
        }
    }
}

/// Where to begin, by the table above.
fn decide(found: Found, on_gap: OnGap) -> Result<Beginning, Undecided> {
    let Found { relayed, committed, bounds, renewed } = found;
    let mut jumps = Vec::new();
    let offset = match (relayed, committed) {
        (Some(relayed), Some(committed)) if renewed && on_gap == OnGap::Hold => {
            return Err(Undecided::Renewed { relayed, committed });
        }
        (Some(relayed), committed) if renewed => {
            jumps.push(Jump::Renewed { relayed });
            committed.filter(|_| on_gap == OnGap::Continue).unwrap_or(bounds.min)
        }
        (None, committed) => committed.unwrap_or(bounds.min),
        (Some(relayed), Some(committed)) if committed > relayed => {
            if on_gap == OnGap::Hold {
                return Err(Undecided::Ahead { relayed, committed });
            }
            let followed = on_gap == OnGap::Continue;
            jumps.push(Jump::Ahead { relayed, committed, followed });
            if followed { committed } else { relayed }
        }
        (Some(relayed), committed) => {
            // Of what was relayed and has expired since, nothing can be relayed again.
            let back = committed.map_or(bounds.min, |committed| committed.max(bounds.min));
            let followed = on_gap == OnGap::Replay;
            if back < relayed {
                jumps.push(Jump::Back { relayed, committed, followed });
            }
            if followed { back.min(relayed) } else { relayed }
        }
    };
    if (bounds.min..=bounds.max).contains(&offset) {
        return Ok(Beginning { offset, jumps });
    }
    if on_gap == OnGap::Hold {
        return Err(Undecided::OutOfRange { offset });
    }
    let offset = if offset < bounds.min {
        jumps.push(Jump::Expired { from: offset, to: bounds.min });
        bounds.min
    } else {
        jumps.push(Jump::BeyondEnd { offset });
        if on_gap == OnGap::Continue { bounds.max } else { bounds.min }
    };
    Ok(Beginning { offset, jumps })
}

impl Jump {
    /// What metrics call it.
    fn kind(self) -> &'static str {
        match self {
            Self::Back { .. } => "back",
            Self::Ahead { .. } => "ahead",
            Self::Expired { .. } => "expired",
            Self::Renewed { .. } => "renewed",
            Self::BeyondEnd { .. } => "beyond_end",
        }
    }

    /// Messages that are relayed by nobody for it: first, and one past the last.
    fn missed(self, bounds: Bounds) -> (i64, i64) {
        match self {
            Self::Ahead { relayed, committed, followed: true } => (relayed, committed.min(bounds.max)),
            Self::Expired { from, to } => (from, to),
            Self::Back { .. } | Self::Ahead { .. } | Self::Renewed { .. } | Self::BeyondEnd { .. } => (0, 0),
        }
    }

    fn log(self, queue: &Queue, bounds: Bounds) {
        let (from, to) = self.missed(bounds);
        let missed = (to - from).max(0);
        match self {
            Self::Back { relayed, committed, followed: false } => error!(
                %queue, ?committed, relayed,
                "the committed offset went back behind what is relayed: the broker crashed, a relay did, or it was set; \
                 refused, going on from what is relayed"
            ),
            Self::Back { relayed, committed, followed: true } => error!(
                %queue, ?committed, relayed,
                "the committed offset went back behind what is relayed; relaying it again"
            ),
            Self::Ahead { relayed, committed, followed: true } => error!(
                %queue, committed, relayed, from, to = to - 1, missed,
                "the committed offset went ahead of what is relayed; leaving out what lies between"
            ),
            Self::Ahead { relayed, committed, followed: false } => error!(
                %queue, committed, relayed,
                "the committed offset went ahead of what is relayed; refused, going on from what is relayed"
            ),
            Self::Expired { .. } => error!(
                %queue, from, to = to - 1, missed,
                "messages expired before they were relayed; going on behind them"
            ),
            Self::Renewed { relayed } => error!(
                %queue, relayed, oldest = bounds.min, end = bounds.max,
                "other messages stand where these were relayed: the topic was recreated, or the broker lost its newest messages and has \
                 others in their place; going on as with a new queue"
            ),
            Self::BeyondEnd { offset } => error!(
                %queue, offset, oldest = bounds.min, end = bounds.max,
                "where to go on lies beyond the queue's end: the broker lost its newest messages, the topic was recreated, or the \
                 offset was set; going on as --on-gap says"
            ),
        }
    }
}

impl QueueRelay {
    /// Finds where to begin, and makes the queue this relay's own.
    pub(super) async fn begin(&self) -> Result<Begun, Held> {
        // Asked before the record is read: the landings of others are seen by the next look at the earliest.
        let look = self.delivery.destinations.looks();
        let (mut page, mut entry) = self.journal.open(&self.queue).await?;
        let mut committed = self.cluster.committed_offset(&self.group, &self.queue).await?;
        while committed > entry.as_ref().map(|entry| entry.relayed) {
            // A relay writes its record before it commits: that of a commit a former owner made meanwhile is there by now, and perhaps the
            // next one's.
            (page, entry) = self.journal.open(&self.queue).await?;
            let now = self.cluster.committed_offset(&self.group, &self.queue).await?;
            if std::mem::replace(&mut committed, now) == now {
                break;
            }
        }
        let named = entry.iter().flat_map(|entry| entry.undrained.nsqds().chain(&entry.homes));
        self.delivery.destinations.told(named);
        if entry.is_none() && self.on_gap == OnGap::Hold && matches!(self.delivery.feed, Feed::Share(_)) {
            return Err(Held::NoPlace { queue: self.queue.clone() });
        }
        let bounds = self.cluster.queue_bounds(&self.queue).await?;
        let renewed = match &entry {
            Some(entry) => self.is_renewed(entry, bounds).await?,
            None => false,
        };
        let found = Found { relayed: entry.as_ref().map(|entry| entry.relayed), committed, bounds, renewed };
        let relayed = found.relayed.or(committed).unwrap_or(bounds.min);
        self.state.update(&self.queue, QueueState { relayed, end: bounds.max, ..QueueState::default() });
        let Beginning { offset, jumps } = match decide(found, self.on_gap) {
            Ok(beginning) => beginning,
            Err(undecided) => {
                self.keep(&mut page, entry).await;
                return Err(undecided.held(&self.queue, bounds));
            }
        };
        let unaudited = entry.as_ref().and_then(|entry| entry.unaudited);
        let entry = entry.filter(|_| !renewed);
        let stored_ms =
            entry.as_ref().filter(|entry| entry.relayed == offset).and_then(|entry| entry.stored_ms);
        let undrained = match entry {
            Some(entry) if self.replay => Undrained::restore(entry.undrained, look),
            _ => Undrained::default(),
        };
        // From here on no former owner's record counts, and what was decided is decided once.
        let homes = self.delivery.destinations.homes();
        let snapshot = undrained.snapshot();
        page.write(Entry { relayed: offset, stored_ms, undrained: snapshot, homes, unaudited }).await?;
        for jump in jumps {
            jump.log(&self.queue, bounds);
            let (from, to) = jump.missed(bounds);
            self.state.metrics.jumped(jump.kind(), to - from);
        }
        if committed != Some(offset) {
            self.put_back(offset).await?;
        }
        Ok(Begun { offset, stored_ms, page, undrained, unaudited })
    }

    /// Sees that the record outlasts the time a person takes to decide: without it, the relay would begin at the committed offset
    /// in the end, and nobody would be told.
    async fn keep(&self, page: &mut Page, entry: Option<Entry>) {
        if let Some(entry) = entry.filter(|_| page.is_old())
            && let Err(error) = page.write(entry).await
        {
            warn!(queue = %self.queue, %error, "the record of a held queue is not written again yet");
        }
    }

    /// Whether other messages stand where a record was written about.
    async fn is_renewed(&self, entry: &Entry, bounds: Bounds) -> Result<bool, Held> {
        let last = entry.relayed - 1;
        let (Some(stored_ms), true) = (entry.stored_ms, (bounds.min..bounds.max).contains(&last)) else {
            return Ok(entry.relayed > bounds.max);
        };
        let reader = QueueReader::new(self.cluster.clone(), self.group.clone());
        match reader.pull(&self.queue, last, 1, Duration::ZERO).await? {
            Pull::Messages { messages, .. } => {
                Ok(messages.first().is_some_and(|message| message.store_timestamp != stored_ms))
            }
            // Told of a reset, or the message is not there after all: asked again.
            Pull::Empty { .. } | Pull::OffsetMoved { .. } => {
                Err(Held::Reset { queue: self.queue.clone(), offset: last })
            }
        }
    }

    /// Commits what was decided on, whatever the broker has.
    async fn put_back(&self, offset: i64) -> Result<(), Held> {
        let commit = || self.cluster.try_commit(&self.group, &self.queue, offset);
        if commit().await? == Commit::Taken {
            return Ok(());
        }
        // RocketMQ 5 ignores commits after a reset until a pull has been told of it.
        let reader = QueueReader::new(self.cluster.clone(), self.group.clone());
        reader.pull(&self.queue, offset, 1, Duration::ZERO).await?;
        match commit().await? {
            Commit::Taken => Ok(()),
            Commit::Ignored { holds } => {
                Err(Held::Moved { queue: self.queue.clone(), committed: offset, holds })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: [OnGap; 3] = [OnGap::Hold, OnGap::Continue, OnGap::Replay];

    /// Every small case of what can be found.
    fn every_case() -> impl Iterator<Item = Found> {
        let known = || (-1..7).map(|offset| (offset >= 0).then_some(offset));
        let bounds = (0..6).flat_map(|min| (min..6).map(move |max| Bounds { min, max }));
        bounds.flat_map(move |bounds| {
            known().flat_map(move |relayed| {
                known().flat_map(move |committed| {
                    let beyond = relayed.is_some_and(|relayed| relayed > bounds.max);
                    let renewed = [beyond, relayed.is_some()].into_iter();
                    renewed.map(move |renewed| Found { relayed, committed, bounds, renewed })
                })
            })
        })
    }

    #[test]
    fn whatever_is_found_nothing_is_missed_unsaid_and_nothing_doubled_unasked() {
        let mut held = 0;
        for found in every_case() {
            for on_gap in POLICIES {
                let Found { relayed, committed, bounds, renewed } = found;
                let relayed = relayed.filter(|_| !renewed);
                let case = format!("{found:?} {on_gap:?}");
                let Ok(Beginning { offset, jumps }) = decide(found, on_gap) else {
                    assert_eq!(on_gap, OnGap::Hold, "only hold waits for a person: {case}");
                    held += 1;
                    continue;
                };
                assert!((bounds.min..=bounds.max).contains(&offset), "{case}");
                // What is certainly relayed: all below the record; without one, what is committed.
                let begun_anew = renewed && on_gap == OnGap::Replay;
                let done = relayed.or(committed).filter(|_| !begun_anew).unwrap_or(bounds.min);
                let mut said: Vec<i64> = jumps
                    .iter()
                    .flat_map(|jump| {
                        let (from, to) = jump.missed(bounds);
                        from..to
                    })
                    .collect();
                let missed: Vec<i64> = (done..offset).collect();
                said.sort_unstable();
                assert_eq!(said, missed, "each missed message is counted, once: {case}");
                assert!(missed.is_empty() || on_gap != OnGap::Hold, "{case}");
                if on_gap == OnGap::Replay {
                    let expired = bounds.min > done;
                    assert!(missed.is_empty() || expired, "replay misses only what has expired: {case}");
                }
                let beyond = jumps.iter().any(|jump| matches!(jump, Jump::BeyondEnd { .. }));
                if on_gap != OnGap::Replay && !beyond {
                    assert!(offset >= done, "nothing relayed comes again unless asked for: {case}");
                }
                let as_left = match relayed {
                    Some(relayed) => committed == Some(relayed),
                    None => !renewed,
                };
                assert!(!renewed || !jumps.is_empty(), "it is said that the queue is another: {case}");
                if as_left && (bounds.min..=bounds.max).contains(&done) {
                    assert_eq!((offset, jumps.len()), (done, 0), "an undisturbed relay goes on: {case}");
                }
            }
        }
        assert!(held > 0);
    }

    #[test]
    fn a_rewind_is_refused_unless_replay_is_asked_for_and_a_skip_holds() {
        let bounds = Bounds { min: 10, max: 200 };
        let found = |relayed, committed| Found { relayed: Some(relayed), committed, bounds, renewed: false };
        let begins = |found, on_gap| decide(found, on_gap).map(|beginning| beginning.offset);
        assert_eq!(begins(found(100, Some(50)), OnGap::Hold), Ok(100));
        assert_eq!(begins(found(100, Some(50)), OnGap::Continue), Ok(100));
        assert_eq!(begins(found(100, Some(50)), OnGap::Replay), Ok(50));
        assert_eq!(begins(found(100, Some(5)), OnGap::Replay), Ok(10));
        assert_eq!(begins(found(100, None), OnGap::Hold), Ok(100));
        let ahead = found(100, Some(150));
        assert_eq!(decide(ahead, OnGap::Hold), Err(Undecided::Ahead { relayed: 100, committed: 150 }));
        assert_eq!(begins(ahead, OnGap::Continue), Ok(150));
        assert_eq!(begins(ahead, OnGap::Replay), Ok(100));
        let expired = found(3, Some(3));
        let beginning = decide(expired, OnGap::Replay).unwrap();
        assert_eq!(beginning, Beginning { offset: 10, jumps: vec![Jump::Expired { from: 3, to: 10 }] });
    }
}
