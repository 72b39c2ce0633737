//! Plan files: TOML, `format = 1`, each field read by something and every other refused.
//!
//! A plan says where a migration is to lead: which RocketMQ and NSQ, which topics, for each channel the consumer group it
//! becomes. It holds no state; where the migration stands is read from the brokers each time.

mod draft;
mod fields;
mod parse;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

pub use self::{
    draft::{Where, draft},
    fields::{SECTIONS, fields},
};
use crate::{
    mapping::Names,
    nsq::{
        address::HttpAddress,
        names::{ChannelName, TopicName},
    },
    problems::{self, Listed, Problem},
};

/// A checked plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// RocketMQ's name servers.
    pub name_servers: Vec<HttpAddress>,
    /// The nsqlookupds.
    pub nsqlookupds: Vec<HttpAddress>,
    /// Nsqds beside those the nsqlookupds list.
    pub nsqds: Vec<HttpAddress>,
    /// The relays' `--group-prefix`.
    pub group_prefix: String,
    /// What topics are called in RocketMQ, with the plan's renames.
    pub names: Names,
    /// What must hold before a channel may be cut over.
    pub gates: Gates,
    /// What is done about what is not plain.
    pub policies: Policies,
    /// The topics and their channels.
    pub topics: BTreeMap<TopicName, BTreeMap<ChannelName, ChannelPlan>>,
}

/// What must hold before a channel may be cut over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gates {
    /// Messages of the topic that nsqd may not have yet.
    pub lag_messages: u64,
    /// Age of the oldest of them.
    pub lag_age: Duration,
    /// Whether the audit must have found the topic complete.
    pub audit: Audit,
    /// For how long RocketMQ must have held messages of the topic.
    pub time_in_stage: Duration,
    /// The longest the topic's consumers may get nothing.
    pub max_pause: Duration,
    /// How long the brokers must keep messages.
    pub retention: Duration,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            lag_messages: 1_000,
            lag_age: Duration::from_secs(10),
            audit: Audit::Any,
            time_in_stage: Duration::ZERO,
            max_pause: Duration::from_secs(10),
            retention: Duration::from_secs(24 * 3_600),
        }
    }
}

/// Whether the audit must have found the topic complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// It need not have looked.
    Any,
    /// It must have.
    Clean,
}

/// What is done about what is not plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// Deferred messages in the channel.
    pub deferred: Deferred,
    /// Producers that publish to nsqd past the gateway.
    pub bypass: Tolerance,
    /// Channels that end with their last consumer, and with them the way back.
    pub ephemeral_channels: Tolerance,
    /// Brokers that answer before the disk has a message.
    pub async_flush: Tolerance,
    /// How long a channel must have been empty before it counts as drained.
    pub quiet: Duration,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            deferred: Deferred::Abort,
            bypass: Tolerance::Refuse,
            ephemeral_channels: Tolerance::Refuse,
            async_flush: Tolerance::Warn,
            quiet: Duration::from_secs(1),
        }
    }
}

/// What is done about deferred messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deferred {
    /// Wait until they are due, before anything is fenced.
    Wait,
    /// Do not begin.
    Abort,
}

/// How something unwanted is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    /// It blocks.
    Refuse,
    /// It is told.
    Warn,
}

/// What becomes of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelPlan {
    /// The consumer group that stands for it.
    pub group: String,
    /// Where its consumers are to be.
    pub goal: Goal,
    /// In which phase; later phases wait for earlier ones.
    pub phase: u32,
}

/// Where a channel's consumers are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// In the consumer group.
    Cutover,
    /// Back in the channel; the new consumer works, so nothing is doubled.
    Rollback,
    /// Back in the channel at once; the new consumer is broken, and what it consumed comes twice.
    RollbackBroken,
    /// Where they are: in the channel.
    Keep,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file says what cannot be.
    #[error("{}: {}", path.display(), Listed(problems))]
    Problems {
        /// The file.
        path: PathBuf,
        /// Everything wrong with it.
        problems: Vec<Problem>,
    },
}

impl Plan {
    /// Reads a plan file.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let table = problems::read_toml(path)
            .map_err(|reason| PlanError::Unreadable { path: path.to_owned(), reason })?;
        parse::plan(&table).map_err(|problems| PlanError::Problems { path: path.to_owned(), problems })
    }

    /// The channels with their topics, in the order in which they are to be moved.
    #[must_use]
    pub fn channels(&self) -> Vec<(&TopicName, &ChannelName, &ChannelPlan)> {
        let all = self.topics.iter().flat_map(|(topic, channels)| {
            channels.iter().map(move |(channel, planned)| (topic, channel, planned))
        });
        let mut all: Vec<_> = all.collect();
        // Stable: within a phase by name.
        all.sort_by_key(|(_, _, planned)| planned.phase);
        all
    }
}
