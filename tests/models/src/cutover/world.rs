//! RocketMQ, nsqd, the relays and the consumers: what is there, and what they do by themselves.

/// The most messages a state can hold.
const MESSAGES: usize = 3;

pub(super) type Mask = u8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// Published by producers; every offset below is in RocketMQ.
    pub(super) end: u8,
    /// The relay: what it has sent to nsqd, whether the last of it is unanswered, and what it has committed.
    pub(super) sent: u8,
    pub(super) unanswered: bool,
    pub(super) committed: u8,
    /// Whose fence the relays obey, and up to which offset each may go on all the same: the topic's, and that of the rest.
    pub(super) fence: Option<(u8, [u8; 2])>,
    /// nsqd: messages published to the topic; the channel's waiting and in flight.
    pub(super) published: u8,
    pub(super) waiting: Mask,
    pub(super) in_flight: Mask,
    pub(super) paused: bool,
    /// The group: where it stands, and whether it may consume.
    pub(super) group: Option<u8>,
    pub(super) open: bool,
    /// By share: what is stamped for the group; where the relay of the rest stands, whether it may relay, and whether it does; what of the rest
    /// waits for the old consumer.
    pub(super) stamped: Mask,
    pub(super) rest: Option<u8>,
    pub(super) rest_open: bool,
    pub(super) rest_runs: bool,
    pub(super) left: Mask,
    /// It is written down that a rollback has begun since the last cutover, and may have emptied the channel.
    pub(super) returning: bool,
    /// How often each message was consumed by the old consumer and by the new one; 2 for more.
    pub(super) old: [u8; MESSAGES],
    pub(super) new: [u8; MESSAGES],
    /// The drivers' mutual exclusion, a lease as well.
    pub(super) lock: Option<u8>,
}

fn bump(count: &mut u8) {
    *count = (*count + 1).min(2);
}

pub(super) fn bit(message: u8) -> Mask {
    1 << message
}

impl World {
    pub(super) fn new() -> Self {
        World {
            end: 0,
            sent: 0,
            unanswered: false,
            committed: 0,
            fence: None,
            published: 0,
            waiting: 0,
            in_flight: 0,
            paused: false,
            group: None,
            open: false,
            stamped: 0,
            rest: None,
            rest_open: false,
            rest_runs: false,
            left: 0,
            returning: false,
            old: [0; MESSAGES],
            new: [0; MESSAGES],
            lock: None,
        }
    }

    pub(super) fn is_cut_over(&self, by_share: bool) -> bool {
        self.paused && self.open && (self.rest_open || !by_share)
    }

    /// The relay has answered for all it sent.
    pub(super) fn is_settled(&self) -> bool {
        !self.unanswered && self.committed == self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0 && self.in_flight == 0
    }

    /// What everybody but the drivers may do next.
    pub(super) fn events(&self, messages: u8, by_share: bool) -> Vec<(&'static str, World)> {
        let mut next = Vec::new();
        let mut may = |what: &'static str, change: &dyn Fn(&mut World)| {
            let mut world = *self;
            change(&mut world);
            next.push((what, world));
        };
        if self.end < messages {
            may("a producer publishes", &|world| world.end += 1);
            if by_share {
                may("a producer publishes, and it is stamped", &|world| {
                    world.stamped |= bit(world.end);
                    world.end += 1;
                });
            }
        }
        let [limit, rest_limit] =
            self.fence.map_or([self.end; 2], |(_, limits)| limits.map(|limit| limit.min(self.end)));
        if self.is_settled() && self.sent < limit {
            may("the relay sends a message", &|world| {
                world.sent += 1;
                world.unanswered = true;
            });
        }
        if self.unanswered {
            may("nsqd has it", &|world| {
                world.unanswered = false;
                world.published += 1;
                world.waiting |= bit(world.sent - 1);
            });
        }
        if !self.unanswered && self.committed < self.sent {
            may("the relay commits", &|world| world.committed = world.sent);
        }
        for message in 0..self.end {
            if self.waiting & bit(message) != 0 && !self.paused {
                may("the old consumer takes a message", &|world| {
                    world.waiting &= !bit(message);
                    world.in_flight |= bit(message);
                });
            }
            if self.in_flight & bit(message) != 0 {
                may("the old consumer finishes a message", &|world| {
                    world.in_flight &= !bit(message);
                    bump(&mut world.old[usize::from(message)]);
                });
                may("the old consumer puts a message back", &|world| {
                    world.in_flight &= !bit(message);
                    world.waiting |= bit(message);
                });
            }
        }
        if let Some(at) = self.group
            && self.open
            && at < self.end
        {
            may("the new consumer consumes a message, or passes it", &|world| {
                if !by_share || world.stamped & bit(at) != 0 {
                    bump(&mut world.new[usize::from(at)]);
                }
                world.group = Some(at + 1);
            });
        }
        if self.rest_open != self.rest_runs {
            may("the relay of the rest begins, or ends", &|world| world.rest_runs = world.rest_open);
        }
        // It has read ahead, and sends that though its group is closed.
        if let Some(at) = self.rest
            && self.rest_runs
            && at < rest_limit
        {
            may("the relay of the rest sends a message, or passes it", &|world| {
                if world.stamped & bit(at) == 0 {
                    world.left |= bit(at);
                }
                world.rest = Some(at + 1);
            });
        }
        for message in (0..self.end).filter(|message| self.left & bit(*message) != 0) {
            may("the old consumer finishes a message of the rest", &|world| {
                world.left &= !bit(message);
                bump(&mut world.old[usize::from(message)]);
            });
        }
        next
    }
}
