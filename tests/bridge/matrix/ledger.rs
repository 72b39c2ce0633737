//! What was published, acknowledged, stored and received: one line for each message, by its number.
//!
//! A body can be made again from its number, so every byte that comes back is compared. A message that is found more often than it
//! should be needs a cause, and each cause has its own witness:
//!
//! - stored more often than its producer published it: a gateway's word that it tried again after no answer;
//! - stored more often than once otherwise: its producer published it again, having heard no clear answer;
//! - received more often than stored, the queue having gone to another owner in between, who began at an offset before it: the
//!   commits the former owner could not make;
//! - received more often otherwise: a relay's word that it had no answer, or that it relayed a lost nsqd's share again, or an
//!   nsqd's word that a consumer did not finish in time.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use nsqbridge::rocketmq::producer::unix_millis;

/// Each message goes to all of these.
pub const CHANNELS: [&str; 2] = ["one", "two"];
const CHANNEL_COUNT: usize = CHANNELS.len();

/// The former owner's last messages may still lie in nsqd when the next one begins.
const LEFT_IN_NSQD_MS: i64 = 5_000;

pub struct Ledger {
    seed: u64,
    lines: Mutex<Vec<Line>>,
    /// Bodies that nobody published, or not so.
    damaged: Mutex<Vec<String>>,
}

/// One message.
#[derive(Debug, Clone, Default)]
struct Line {
    /// How often its producer published it.
    tries: usize,
    acknowledged_ms: Option<i64>,
    /// From the first try to the acknowledgement.
    stall: Duration,
    /// Where it lies: queue and offset.
    places: Vec<(String, i64)>,
    received: [Receipts; CHANNEL_COUNT],
}

#[derive(Debug, Clone, Copy, Default)]
struct Receipts {
    count: usize,
    first_ms: i64,
    last_ms: i64,
}

/// A relay began with a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    pub queue: String,
    pub offset: i64,
    pub at_ms: i64,
}

/// What some messages came to.
#[derive(Debug, Clone, Default)]
pub struct Account {
    pub acknowledged: usize,
    /// Acknowledged and not in RocketMQ, or in RocketMQ and not at every consumer as often.
    pub lost: Vec<String>,
    /// Stored again because the producer published again.
    pub published_again: usize,
    /// Stored again by a gateway.
    pub stored_again: usize,
    /// Received again, the queue's new owner having begun before them; of the channel with the most.
    pub rewound: usize,
    /// Received again for another reason; of the channel with the most.
    pub relayed_again: usize,
    /// The longest a producer waited for an acknowledgement, its own repeats included.
    pub stall: Duration,
    /// The longest from an acknowledgement to the slower consumer.
    pub delivery: Duration,
}

impl Account {
    pub fn doubled(&self) -> usize {
        self.published_again + self.stored_again + self.rewound + self.relayed_again
    }
}

impl Ledger {
    pub fn new(seed: u64) -> Self {
        Self { seed, lines: Mutex::default(), damaged: Mutex::default() }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap()
    }

    /// The next number.
    pub fn next(&self) -> usize {
        self.lines().len()
    }

    /// Opens a line for each of so many messages.
    pub fn begin(&self, messages: usize) -> Vec<usize> {
        let mut lines = self.lines();
        let from = lines.len();
        lines.resize(from + messages, Line::default());
        (from..from + messages).collect()
    }

    /// The body of a message: its number, then noise, mostly little of it.
    pub fn body(&self, number: usize) -> Bytes {
        let mut noise = fastrand::Rng::with_seed(self.seed.wrapping_add(number as u64));
        let most = if noise.usize(..20) == 0 { 64 << 10 } else { 512 };
        let mut body = BytesMut::new();
        body.put_u64(number as u64);
        body.resize(8 + noise.usize(..most), 0);
        noise.fill(&mut body[8..]);
        let sum = crc32fast::hash(&body);
        body.put_u32(sum);
        body.freeze()
    }

    /// The number of a body, if every byte of it is as it was published.
    fn number(&self, body: &Bytes, seen: &str) -> Option<usize> {
        let number = body.first_chunk().map(|number| u64::from_be_bytes(*number) as usize);
        let number = number.filter(|number| *number < self.next() && self.body(*number) == body);
        if number.is_none() {
            self.damaged.lock().unwrap().push(format!("{} bytes, {seen}", body.len()));
        }
        number
    }

    pub fn tried(&self, numbers: &[usize]) {
        let mut lines = self.lines();
        numbers.iter().for_each(|number| lines[*number].tries += 1);
    }

    pub fn acknowledged(&self, numbers: &[usize], stall: Duration) {
        let mut lines = self.lines();
        for number in numbers {
            lines[*number].acknowledged_ms = Some(unix_millis());
            lines[*number].stall = stall;
        }
    }

    pub fn stored(&self, body: &Bytes, queue: &str, offset: i64) {
        if let Some(number) = self.number(body, &format!("at {queue} {offset}")) {
            self.lines()[number].places.push((queue.to_owned(), offset));
        }
    }

    pub fn received(&self, channel: usize, body: &Bytes) {
        let Some(number) = self.number(body, &format!("received by {}", CHANNELS[channel])) else { return };
        let now = unix_millis();
        let receipts = &mut self.lines()[number].received[channel];
        if receipts.count == 0 {
            receipts.first_ms = now;
        }
        receipts.count += 1;
        receipts.last_ms = now;
    }

    pub fn damaged(&self) -> Vec<String> {
        self.damaged.lock().unwrap().clone()
    }

    /// How many were acknowledged of those from this number on.
    pub fn acknowledged_since(&self, from: usize) -> usize {
        self.lines()[from..].iter().filter(|line| line.acknowledged_ms.is_some()).count()
    }

    /// Whether every consumer has what was acknowledged of these.
    pub fn delivered(&self, range: Range<usize>) -> bool {
        self.lines()[range].iter().all(Line::is_delivered)
    }

    /// For a failed test: how many of these are not, and the first of them.
    pub fn undelivered(&self, range: Range<usize>) -> String {
        let lines = self.lines();
        let lacking = range.filter(|number| !lines[*number].is_delivered());
        let first: Vec<_> = lacking.clone().take(3).map(|number| (number, &lines[number])).collect();
        format!("{}, the first: {first:?}", lacking.count())
    }

    /// Whether all that was acknowledged is stored, and every consumer has all that is stored as often as it is.
    pub fn settled(&self) -> bool {
        self.lines().iter().all(|line| line.missing().is_none())
    }

    /// What became of these, given who took which queue over.
    pub fn account(&self, range: Range<usize>, takeovers: &[Takeover]) -> Account {
        let mut account = Account::default();
        let mut again = [[0, 0]; CHANNEL_COUNT];
        for (number, line) in self.lines().iter().enumerate().skip(range.start).take(range.len()) {
            account.lost.extend(line.missing().map(|what| format!("{number} {what}: {line:?}")));
            if let Some(at) = line.acknowledged_ms {
                account.acknowledged += 1;
                account.stall = account.stall.max(line.stall);
                let last = line.received.iter().map(|receipts| receipts.first_ms).max().unwrap_or(at);
                account.delivery = account.delivery.max(Duration::from_millis((last - at).max(0) as u64));
            }
            let copies = line.places.len();
            account.stored_again += copies.saturating_sub(line.tries);
            account.published_again += copies.min(line.tries).saturating_sub(1);
            for (receipts, [rewound, otherwise]) in line.received.iter().zip(&mut again) {
                let surplus = receipts.count.saturating_sub(copies);
                let began = takeovers.iter().filter(|takeover| line.taken_over(receipts, takeover)).count();
                *rewound += surplus.min(began);
                *otherwise += surplus.saturating_sub(began);
            }
        }
        account.rewound = again.iter().map(|[rewound, _]| *rewound).max().unwrap_or(0);
        account.relayed_again = again.iter().map(|[_, otherwise]| *otherwise).max().unwrap_or(0);
        account
    }

    /// For a failed test: how many messages lack what, and the first of them.
    pub fn missing(&self) -> String {
        let lines = self.lines();
        let lacking =
            lines.iter().enumerate().filter_map(|(number, line)| Some((line.missing()?, number, line)));
        let mut counts = BTreeMap::<_, usize>::new();
        lacking.clone().for_each(|(what, ..)| *counts.entry(what).or_default() += 1);
        format!("{counts:?}, the first: {:?}", lacking.take(3).collect::<Vec<_>>())
    }
}

impl Line {
    /// Whether every consumer has it, if it was acknowledged.
    fn is_delivered(&self) -> bool {
        self.acknowledged_ms.is_none() || self.received.iter().all(|receipts| receipts.count > 0)
    }

    fn missing(&self) -> Option<&'static str> {
        let copies = self.places.len();
        if self.acknowledged_ms.is_some() && copies == 0 {
            return Some("was acknowledged and is not stored");
        }
        let short = self.received.iter().any(|receipts| receipts.count < copies);
        short.then_some("was received less often than stored")
    }

    /// Whether this takeover explains that the message came once more.
    fn taken_over(&self, receipts: &Receipts, takeover: &Takeover) -> bool {
        let lies_behind =
            |(queue, offset): &(String, i64)| *queue == takeover.queue && *offset >= takeover.offset;
        let between =
            receipts.first_ms <= takeover.at_ms + LEFT_IN_NSQD_MS && receipts.last_ms >= takeover.at_ms;
        between && self.places.iter().any(lies_behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(ledger: &Ledger, tries: usize) -> (usize, Bytes) {
        let numbers = ledger.begin(1);
        (0..tries).for_each(|_| ledger.tried(&numbers));
        ledger.acknowledged(&numbers, Duration::ZERO);
        (numbers[0], ledger.body(numbers[0]))
    }

    fn received(ledger: &Ledger, body: &Bytes, times: usize) {
        (0..CHANNELS.len()).for_each(|channel| (0..times).for_each(|_| ledger.received(channel, body)));
    }

    #[test]
    fn a_message_that_is_not_stored_or_not_received_is_lost() {
        let ledger = Ledger::new(1);
        let (_, body) = published(&ledger, 1);
        assert_eq!(ledger.account(0..1, &[]).lost.len(), 1);
        ledger.stored(&body, "q", 0);
        ledger.received(0, &body);
        assert_eq!(ledger.account(0..1, &[]).lost.len(), 1, "one channel has it");
        ledger.received(1, &body);
        assert!(ledger.settled());
        assert_eq!(ledger.account(0..1, &[]).lost.len(), 0);
        ledger.stored(&body, "q", 1);
        assert!(!ledger.settled(), "a second copy is received as well");
    }

    #[test]
    fn a_damaged_body_is_nobodys() {
        let ledger = Ledger::new(1);
        let (_, body) = published(&ledger, 1);
        let mut damaged = BytesMut::from(&body[..]);
        *damaged.last_mut().unwrap() ^= 1;
        ledger.received(0, &damaged.freeze());
        ledger.received(0, &Bytes::from_static(b"short"));
        ledger.stored(&Ledger::new(2).body(0), "q", 0);
        assert_eq!(ledger.damaged().len(), 3);
    }

    #[test]
    fn each_double_has_its_cause() {
        let ledger = Ledger::new(1);
        let (_, again_by_producer) = published(&ledger, 2);
        let (_, again_by_gateway) = published(&ledger, 1);
        let (_, again_by_relay) = published(&ledger, 1);
        let (_, rewound) = published(&ledger, 1);
        for (offset, body) in
            [&again_by_producer, &again_by_gateway, &again_by_relay, &rewound].iter().enumerate()
        {
            ledger.stored(body, "q", offset as i64);
        }
        for body in [&again_by_producer, &again_by_gateway] {
            ledger.stored(body, "other", 0);
        }
        for body in [&again_by_producer, &again_by_gateway, &again_by_relay, &rewound] {
            received(&ledger, body, 2);
        }
        let takeover = Takeover { queue: "q".into(), offset: 3, at_ms: unix_millis() - 1 };
        let account = ledger.account(0..4, std::slice::from_ref(&takeover));
        assert!(account.lost.is_empty(), "{account:?}");
        let causes = [account.published_again, account.stored_again, account.relayed_again, account.rewound];
        assert_eq!(causes, [1, 1, 1, 1]);
        let late = Takeover { at_ms: takeover.at_ms + 60_000, ..takeover };
        assert_eq!(ledger.account(3..4, &[late]).relayed_again, 1, "nobody took over between the receipts");
    }
}
