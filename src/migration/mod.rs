//! The migration itself: what is planned, what stands between, and the moves.
//!
//! ```text
//! plan     a plan file: which channel becomes which consumer group, under which conditions
//! scan     a running NSQ as an inventory, and as a draft of a plan
//! world    everything a plan is held against, looked at once
//! checks   the world against the plan: findings with stable reasons
//! steps    what carrying the plan out would create and change
//!
//! cutover  rollback  complete  rehearse     what is done, step by step, as the model has it
//!    └────────┼─────────┴────────┘
//!  recover    finishes or undoes what an interrupted run left
//!  driver     what they have in hand, and how they wait
//!  rest       what a cutover by share leaves to the old consumer
//!    ├ lock       one driver at a time
//!    ├ fence      the relay, held still
//!    ├ intakes    producers that publish straight to nsqd, held back
//!    ├ nsqds      what nsqd counts
//!    └ group      offsets, and what consumers have in hand
//! subject  what is moved, and how far it is as the world tells it
//! status, refusal, progress          what is told
//! ```
//!
//! Looking and judging are apart: `scan` and `world` ask brokers and change nothing, `checks` and `steps` are functions of what they saw. What
//! cannot be asked is a finding, and never taken for "nothing there".
//!
//! What it promises:
//! - At the end of a cutover every message of the topic was finished by the channel's old consumer, or will be given to the group, and to
//!   one of them only. A rollback of healthy consumers does the same in the other direction.
//! - Wherever a driver dies, nothing is lost, the relay goes on by itself, and running the command once more finishes or undoes it.
//! - A driver that was frozen for longer than its lock lasts changes nothing more.
//! - By share, the same holds for what is stamped: the group gets it, and what is not stamped the old consumer, through a topic of its own.
//! - Nothing waits for longer than the pause allowed; then what was begun is undone.
//! - Only [`complete`] cannot be taken back.
//!
//! `tests/models/` checks the protocol exhaustively.

pub mod checks;
pub mod complete;
pub mod cutover;
mod driver;
mod fence;
mod group;
mod intakes;
mod lock;
mod nsqds;
pub mod plan;
pub mod progress;
mod recover;
pub mod refusal;
pub mod rehearse;
mod rest;
pub mod rollback;
pub mod scan;
pub mod status;
pub mod steps;
mod subject;
pub mod world;

pub use driver::{Done, Options};
pub use subject::{Places, Stage, Subject};
