//! A consumer group's settings, and above all whether it may consume.
//!
//! A broker refuses every pull of a group whose `consumeEnable` is off (code 16), with what it has committed left in place. So a group can
//! be *closed* while its offsets are set, and *opened* when they are right. Each master has its own copy of the settings, and
//! they are changed one after the other: what was done is what was read back, not what was asked for.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tracing::info;

use super::{
    cluster::{Cluster, ClusterError, malformed, parsed, those_that_answer},
    codes::request,
    command::Command,
    route::Queue,
};

const CONSUME_ENABLE: &str = "consumeEnable";
const BROKER_ID: &str = "brokerId";
/// Marks a closed group as one whose offsets are not all set yet, and that whoever sets them may open: no broker has this id.
const BEGUN: i64 = 1_000_003;

/// On how many masters a group may consume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Consuming {
    /// Masters that let it.
    pub open: usize,
    /// Masters that do not.
    pub closed: usize,
    /// Masters that do not know it, and may create it, open, for the first consumer that asks; where they are asked for one topic, those
    /// of them that have queues of it.
    pub missing: usize,
}

impl Consuming {
    /// Whether every master lets it.
    #[must_use]
    pub fn is_open(self) -> bool {
        self.open > 0 && self.closed + self.missing == 0
    }

    /// Whether every master knows it, and none lets it.
    #[must_use]
    pub fn is_closed(self) -> bool {
        self.closed > 0 && self.open + self.missing == 0
    }

    /// Whether any master knows it.
    #[must_use]
    pub fn exists(self) -> bool {
        self.open + self.closed > 0
    }

    /// Counts what a master has set it to.
    fn count(&mut self, settings: Option<&Value>) {
        match settings {
            Some(settings) if may_consume(settings) => self.open += 1,
            Some(_) => self.closed += 1,
            None => self.missing += 1,
        }
    }
}

impl Cluster {
    /// Where a group may consume.
    ///
    /// # Errors
    /// When a master cannot be asked or refuses.
    pub async fn consuming(&self, group: &str) -> Result<Consuming, ClusterError> {
        self.consuming_where(group, |_| true).await
    }

    /// Where a group may consume a topic that has these queues. A master that came later, without any of them, misses nothing when it
    /// does not know the group.
    ///
    /// # Errors
    /// When a master cannot be asked or refuses.
    pub async fn consuming_from<'a>(
        &self,
        group: &str,
        queues: impl IntoIterator<Item = &'a Queue>,
    ) -> Result<Consuming, ClusterError> {
        let holders: BTreeSet<&str> = queues.into_iter().map(|queue| &*queue.broker).collect();
        self.consuming_where(group, |broker| holders.contains(broker)).await
    }

    async fn consuming_where(
        &self,
        group: &str,
        is_needed: impl Fn(&str) -> bool,
    ) -> Result<Consuming, ClusterError> {
        let mut consuming = Consuming::default();
        for (broker, address) in self.masters().await? {
            let known = self.group_settings_on(&address).await?;
            let settings = known.get(group);
            if settings.is_some() || is_needed(&broker) {
                consuming.count(settings);
            }
        }
        Ok(consuming)
    }

    /// Where each of these groups may consume, as the masters that answer say.
    ///
    /// # Errors
    /// When none answers.
    pub async fn consuming_known<const N: usize>(
        &self,
        groups: [&str; N],
    ) -> Result<[Consuming; N], ClusterError> {
        let mut consuming = [Consuming::default(); N];
        let masters = self.masters().await?;
        // At once: one that is frozen takes its time, and the others are waited for.
        let asks = masters.iter().map(|(_, address)| self.group_settings_on(address));
        for known in those_that_answer(join_all(asks).await)? {
            for (group, consuming) in groups.iter().zip(&mut consuming) {
                consuming.count(known.get(*group));
            }
        }
        Ok(consuming)
    }

    /// Opens a group on every master, or closes it, and creates it so where it is missing. All else it is set to is kept.
    ///
    /// # Errors
    /// When a master cannot be asked, refuses, or does not do it; others may have done it, and repeating is safe.
    pub async fn set_consuming(&self, group: &str, may: bool) -> Result<(), ClusterError> {
        self.set_consuming_while(group, may, async || Ok(())).await
    }

    /// As [`Self::set_consuming`], for who may lose the right to it in between: asked before each master is told.
    ///
    /// # Errors
    /// As [`Self::set_consuming`], and what `may_go_on` says.
    pub async fn set_consuming_while<E: From<ClusterError>>(
        &self,
        group: &str,
        may: bool,
        may_go_on: impl AsyncFn() -> Result<(), E>,
    ) -> Result<(), E> {
        for (broker, address) in self.masters().await? {
            let known = self.group_settings_on(&address).await?.remove(group);
            if known.as_ref().is_some_and(|settings| may_consume(settings) == may && !is_begun(settings)) {
                continue;
            }
            // Whoever opens or closes it decides for good: who has begun it opens it no more.
            let known = known.filter(|settings| !is_begun(settings));
            let mut settings = known.unwrap_or_else(|| new_group(group));
            settings[CONSUME_ENABLE] = may.into();
            if let Some(settings) = settings.as_object_mut() {
                // 5.x takes these as changes to what is there, in words of their own; none leaves them as they are.
                settings.remove("attributes");
            }
            may_go_on().await?;
            self.put_group_on(&address, group, settings).await?;
            let after = self.group_settings_on(&address).await?;
            if after.get(group).map(may_consume) != Some(may) {
                let reason = format!("it answered success, and {CONSUME_ENABLE} is not {may}");
                return Err(malformed(&address, &format!("to change group {group}"), reason).into());
            }
            info!(group, broker, may_consume = may, "group switched");
        }
        Ok(())
    }

    /// Takes a group and its offsets off every master.
    ///
    /// # Errors
    /// When a master cannot be asked or refuses; repeating is safe.
    pub async fn delete_group(&self, group: &str) -> Result<(), ClusterError> {
        self.delete_group_while(group, async || Ok(())).await
    }

    /// As [`Self::delete_group`], for who may lose the right to it in between: asked before each master is told.
    ///
    /// # Errors
    /// As [`Self::delete_group`], and what `may_go_on` says.
    pub async fn delete_group_while<E: From<ClusterError>>(
        &self,
        group: &str,
        may_go_on: impl AsyncFn() -> Result<(), E>,
    ) -> Result<(), E> {
        for (_, address) in self.masters().await? {
            may_go_on().await?;
            let command = Command::request(request::DELETE_SUBSCRIPTIONGROUP)
                .field("groupName", group)
                .field("cleanOffset", true);
            self.ask(&address, &format!("to delete group {group}"), command).await?;
        }
        Ok(())
    }

    pub(super) async fn put_group_on(
        &self,
        address: &str,
        group: &str,
        settings: Value,
    ) -> Result<(), ClusterError> {
        let command =
            Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).body(settings.to_string());
        self.ask(address, &format!("to create group {group}"), command).await.map(drop)
    }

    pub(super) async fn group_settings_on(
        &self,
        address: &str,
    ) -> Result<BTreeMap<String, Value>, ClusterError> {
        let asked = "its consumer groups";
        let answer =
            self.ask(address, asked, Command::request(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG)).await?;
        let body = parsed(address, asked, &answer)?;
        let table = body.get("subscriptionGroupTable");
        let table = table.ok_or_else(|| malformed(address, asked, "no subscriptionGroupTable"))?;
        let groups = table.entries().iter();
        Ok(groups.filter_map(|(name, group)| Some((name.as_str()?.to_owned(), group.to_json()))).collect())
    }
}

/// What a new group is set to.
pub(super) fn new_group(group: &str) -> Value {
    json!({
        "groupName": group,
        CONSUME_ENABLE: true,
        "consumeFromMinEnable": true,
        "consumeBroadcastEnable": true,
        "retryQueueNums": 1,
        "retryMaxTimes": 16,
        BROKER_ID: 0,
        "whichBrokerWhenConsumeSlowly": 1,
        "notifyConsumerIdsChangedEnable": true,
    })
}

/// What a group is set to as long as not all of its offsets are set.
pub(super) fn begun_group(group: &str) -> Value {
    let mut settings = new_group(group);
    settings[CONSUME_ENABLE] = false.into();
    settings[BROKER_ID] = BEGUN.into();
    settings
}

/// Whether a group is set to that. One that somebody has closed for another reason is not.
pub(super) fn is_begun(settings: &Value) -> bool {
    !may_consume(settings) && settings[BROKER_ID] == BEGUN
}

/// A broker that does not say takes it for granted.
fn may_consume(settings: &Value) -> bool {
    settings[CONSUME_ENABLE].as_bool().unwrap_or(true)
}
