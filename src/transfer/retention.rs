//! Whether messages are relayed well before they expire.
//!
//! A broker deletes what it has kept for `fileReservedTime` hours, a whole file of its log at a time, when the newest message in the
//! file is that old, and mostly only once a day (`deleteWhen`). So no message is deleted before it is that old, and most live longer:
//! what is told here is the earliest time. Two things may come before it: a broker whose disk is nearly full deletes without regard to
//! age, and on RocketMQ 5 a topic may have a time of its own (`reserve.time`), which is not looked at.
//!
//! What an nsqd may still lose must be there, too, as long as it may have to be relayed again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::state::TopicState;
use crate::rocketmq::{Cluster, ClusterError, Queue, QueueReader, producer::unix_millis, reader::Pull};

/// The brokers are asked for their settings this often, and after a failure sooner.
const ASK_EVERY: Duration = Duration::from_secs(300);
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// The age of what waits is looked at this often.
pub(super) const WATCH_EVERY: Duration = Duration::from_secs(30);
/// The part of the retention after which a person is warned, and after which it is an error.
const WARN_AT: f64 = 0.5;
const ALARM_AT: f64 = 0.8;

/// How long each broker keeps messages, by its name.
pub(super) type Reserves = BTreeMap<String, Duration>;

/// How old the messages of a topic may get, and how old those are that are still needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Retention {
    /// How long they are kept at least; `None` while no broker has said.
    pub(super) reserve: Option<Duration>,
    /// Age of the oldest that nsqd does not have.
    unrelayed: Duration,
    /// Age of the oldest that an nsqd may still lose.
    undrained: Duration,
}

/// How near messages are to their end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    #[default]
    None,
    Warning,
    Error,
}

impl Retention {
    /// Until the oldest message that nsqd does not have may expire.
    pub(super) fn expires_in(&self) -> Option<Duration> {
        Some(self.reserve?.saturating_sub(self.unrelayed))
    }

    /// Until the oldest message that an nsqd may still lose may expire.
    pub(super) fn undrained_expires_in(&self) -> Option<Duration> {
        Some(self.reserve?.saturating_sub(self.undrained))
    }

    /// What a person is to be told, once half of the time has passed.
    pub(super) fn warning(&self) -> Option<String> {
        (self.alarm(self.unrelayed) > Alarm::None).then(|| {
            let expires_in = self.expires_in().unwrap_or_default();
            if expires_in.is_zero() {
                return "the oldest message may have expired".to_owned();
            }
            let whole = Duration::from_secs(expires_in.as_secs());
            format!("the oldest message expires in {}", humantime::format_duration(whole))
        })
    }

    fn alarm(&self, age: Duration) -> Alarm {
        let Some(reserve) = self.reserve.filter(|_| !age.is_zero()) else { return Alarm::None };
        if age >= reserve.mul_f64(ALARM_AT) {
            Alarm::Error
        } else if age >= reserve.mul_f64(WARN_AT) {
            Alarm::Warning
        } else {
            Alarm::None
        }
    }
}

/// Keeps up to date how long each broker keeps messages.
pub(super) async fn keep_asking(cluster: Cluster, reserves: watch::Sender<Reserves>) {
    let mut unknown = false;
    loop {
        let asked = cluster.reserves().await;
        let wait = match asked {
            Ok(told) => {
                if std::mem::take(&mut unknown) {
                    info!("the brokers say how long they keep messages");
                }
                reserves.send_replace(told);
                ASK_EVERY
            }
            Err(error) => {
                if !std::mem::replace(&mut unknown, true) {
                    warn!(%error, "no broker says how long it keeps messages; there is no warning before they expire");
                }
                ASK_AGAIN_AFTER
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Watches one topic for as long as it is relayed.
pub(super) async fn keep_watching(
    state: Arc<TopicState>,
    reader: QueueReader,
    mut reserves: watch::Receiver<Reserves>,
    every: Duration,
) {
    let mut told = [Alarm::None; 2];
    let mut stored = Stored::new();
    loop {
        let reserve = {
            let reserves = reserves.borrow_and_update();
            let queues = state.queues();
            queues.keys().filter_map(|queue| reserves.get(&queue.broker)).min().copied()
        };
        let [unrelayed, undrained] = ages(&state, &reader, &mut stored).await;
        let retention = Retention { reserve, unrelayed, undrained };
        state.set_retention(retention);
        tell(&state, retention, &mut told);
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            changed = reserves.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// When messages that are needed were stored, in milliseconds since 1970; `None` for one that has expired.
type Stored = BTreeMap<(Queue, i64), Option<i64>>;

/// Ages of the oldest message that nsqd does not have, and of the oldest that an nsqd may still lose.
async fn ages(state: &TopicState, reader: &QueueReader, stored: &mut Stored) -> [Duration; 2] {
    let (mut ages, mut needed) = ([Duration::ZERO; 2], Stored::new());
    for (queue, known) in state.queues() {
        let unrelayed = (known.end > known.relayed).then_some(known.relayed);
        for (age, offset) in ages.iter_mut().zip([unrelayed, known.undrained]) {
            let Some(offset) = offset else { continue };
            let place = (queue.clone(), offset);
            let at = match stored.get(&place) {
                Some(at) => *at,
                None => match stored_at(reader, &queue, offset).await {
                    Ok(Some(at)) => at,
                    Ok(None) => continue,
                    Err(error) => {
                        debug!(%queue, offset, %error, "the age of a message is not known now");
                        continue;
                    }
                },
            };
            needed.insert(place, at);
            *age = (*age).max(at.map_or(Duration::MAX, since));
        }
    }
    // What nobody needs any more is forgotten.
    *stored = needed;
    ages
}

/// When a message was stored: `None` for one that is not there yet, or cannot be read; inside for one that has expired.
async fn stored_at(
    reader: &QueueReader,
    queue: &Queue,
    offset: i64,
) -> Result<Option<Option<i64>>, ClusterError> {
    Ok(match reader.pull(queue, offset, 1, Duration::ZERO).await? {
        Pull::Messages { messages, .. } => messages.first().map(|message| Some(message.store_timestamp)),
        Pull::OffsetMoved { bounds, .. } if offset < bounds.min => Some(None),
        Pull::OffsetMoved { .. } | Pull::Empty { .. } => None,
    })
}

fn since(stored_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(unix_millis() - stored_ms).unwrap_or(0))
}

/// Says so when messages come nearer to their end, and when they no longer do.
fn tell(state: &TopicState, retention: Retention, told: &mut [Alarm; 2]) {
    let now = [retention.alarm(retention.unrelayed), retention.alarm(retention.undrained)];
    let [unrelayed, undrained] = [0, 1].map(|which| (now[which] != told[which]).then_some(now[which]));
    let topic = &state.topic;
    let (reserve, expires_in) =
        (retention.reserve.unwrap_or_default(), retention.expires_in().unwrap_or_default());
    match unrelayed {
        None => {}
        Some(Alarm::None) => info!(%topic, "messages are relayed well before they expire again"),
        Some(Alarm::Warning) => warn!(%topic, ?reserve, ?expires_in,
            "messages wait for more than half of the time they are kept; relay them sooner, or raise fileReservedTime"),
        Some(Alarm::Error) => error!(%topic, ?reserve, ?expires_in,
            "messages are about to expire before they are relayed; relay them, or raise fileReservedTime now"),
    }
    let expires_in = retention.undrained_expires_in().unwrap_or_default();
    match undrained {
        None => {}
        Some(Alarm::None) => info!(%topic, "what the nsqds may still lose can be relayed again"),
        Some(Alarm::Warning | Alarm::Error) => warn!(%topic, ?reserve, ?expires_in,
            "an nsqd holds messages that are about to expire in RocketMQ, after which they cannot be relayed again if it is lost"),
    }
    *told = now;
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn after(age: Duration) -> Retention {
        Retention { reserve: Some(72 * HOUR), unrelayed: age, undrained: Duration::ZERO }
    }

    #[test]
    fn a_warning_comes_at_half_of_the_time_and_an_alarm_at_four_fifths() {
        let alarm = |age| after(age).alarm(age);
        let minute = Duration::from_secs(60);
        assert_eq!(alarm(Duration::ZERO), Alarm::None);
        assert_eq!(alarm(36 * HOUR - minute), Alarm::None);
        assert_eq!(alarm(36 * HOUR), Alarm::Warning);
        assert_eq!(alarm(72 * HOUR.mul_f64(0.8) - minute), Alarm::Warning);
        assert_eq!(alarm(72 * HOUR.mul_f64(0.8) + minute), Alarm::Error);
        assert_eq!(alarm(Duration::MAX), Alarm::Error);
    }

    #[test]
    fn the_time_left_is_what_the_oldest_message_has_and_never_less_than_none() {
        assert_eq!(after(Duration::ZERO).expires_in(), Some(72 * HOUR));
        assert_eq!(after(10 * HOUR).expires_in(), Some(62 * HOUR));
        assert_eq!(after(100 * HOUR).expires_in(), Some(Duration::ZERO));
        assert_eq!(after(10 * HOUR).undrained_expires_in(), Some(72 * HOUR));
        assert_eq!(after(10 * HOUR).warning(), None);
        assert_eq!(after(60 * HOUR).warning().unwrap(), "the oldest message expires in 12h");
        assert_eq!(after(Duration::MAX).warning().unwrap(), "the oldest message may have expired");
    }

    #[test]
    fn nothing_is_said_of_what_nobody_knows() {
        let unknown = Retention { reserve: None, unrelayed: 1_000 * HOUR, undrained: 1_000 * HOUR };
        assert_eq!((unknown.expires_in(), unknown.warning()), (None, None));
        // A broker that keeps nothing, and a relay that has nothing to do.
        let nothing = Retention { reserve: Some(Duration::ZERO), ..Retention::default() };
        assert_eq!((nothing.expires_in(), nothing.warning()), (Some(Duration::ZERO), None));
    }
}
