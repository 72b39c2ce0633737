//! What an operator's tool would do: create topics and groups, read statistics and settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{
    cluster::{Cluster, ClusterError, malformed, parsed, refused, those_that_answer},
    codes::{request, response},
    command::Command,
    loose_json::Value,
    producer::unix_millis,
    properties::names::UNIQ_KEY,
    reader::Bounds,
    record::{self, StoredMessage},
    route::Queue,
    subscription::{begun_group, is_begun, new_group},
};

/// How long a new topic may take to reach the name servers; brokers register it at once.
const ROUTE_APPEARS_WITHIN: Duration = Duration::from_secs(5);

/// What a member of a group says of itself, by name; or why it says nothing.
pub type Answer = Result<BTreeMap<String, String>, ClusterError>;

/// How far a group has read one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// One past the newest message.
    pub broker_offset: i64,
    /// What the group has committed.
    pub consumer_offset: i64,
}

/// What a consumer has of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hand {
    /// Messages it was given and has not finished.
    pub messages: i64,
    /// It has consumed everything below.
    pub consumed: i64,
}

impl Cluster {
    /// Creates the topic on every master that does not have it, with `queues` queues each, and waits for its route.
    ///
    /// A master that has the topic is left as it is: sending the request again would change its queue count, and hide
    /// what lies in queues beyond the new one.
    ///
    /// # Errors
    /// When a master cannot be asked or refuses; the topic may then exist on others, and repeating is safe.
    pub async fn create_topic(&self, topic: &str, queues: u32) -> Result<(), ClusterError> {
        let mut missing = self.create_topic_where_it_can(topic, queues).await?;
        for (broker, error) in &missing {
            warn!(topic, broker, %error, "topic not created on this broker");
        }
        missing.pop().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// As [`Self::create_topic`], where one master is enough; the names of those that do not have the topic, and why.
    ///
    /// # Errors
    /// When no master has it; repeating is safe.
    pub async fn create_topic_where_it_can(
        &self,
        topic: &str,
        queues: u32,
    ) -> Result<Vec<(String, ClusterError)>, ClusterError> {
        let masters = self.masters().await?;
        let mut having: BTreeSet<String> = masters.iter().map(|(broker, _)| broker.clone()).collect();
        // Side by side: one that is frozen must not keep it from the others.
        let creating = masters.into_iter().map(async |(broker, address)| {
            let created = self.create_topic_on(&broker, &address, topic, queues).await;
            created.err().map(|error| (broker, error))
        });
        let mut missing: Vec<_> = join_all(creating).await.into_iter().flatten().collect();
        for (broker, _) in &missing {
            having.remove(broker);
        }
        if having.is_empty()
            && let Some((_, error)) = missing.pop()
        {
            return Err(error);
        }
        let deadline = Instant::now() + ROUTE_APPEARS_WITHIN;
        loop {
            // Each broker tells the name servers by itself: a route that lacked one would be kept for a while, and that one get nothing.
            match self.fresh_route(topic).await {
                Ok(route) if having.iter().all(|broker| route.brokers.contains_key(broker)) => {
                    return Ok(missing);
                }
                Ok(_) | Err(ClusterError::UnknownTopic(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result.map(|_| missing),
            }
        }
    }

    async fn create_topic_on(
        &self,
        broker: &str,
        address: &str,
        topic: &str,
        queues: u32,
    ) -> Result<(), ClusterError> {
        if !self.has_topic(address, topic).await? {
            self.put_topic(address, topic, queues).await?;
            info!(topic, broker, queues, "topic created");
        }
        Ok(())
    }

    /// Creates the topic where it is missing, and gives it more queues where it has fewer than `queues`.
    ///
    /// # Errors
    /// As [`Self::create_topic`]; repeating is safe.
    pub async fn widen_topic(&self, topic: &str, queues: u32) -> Result<(), ClusterError> {
        self.create_topic(topic, queues).await?;
        let there = self.topic_stats(topic).await?;
        for (broker, address) in self.masters().await? {
            if there.keys().filter(|queue| queue.broker == broker).count() < queues as usize {
                self.put_topic(&address, topic, queues).await?;
                info!(topic, broker, queues, "topic widened");
            }
        }
        Ok(())
    }

    async fn put_topic(&self, address: &str, topic: &str, queues: u32) -> Result<(), ClusterError> {
        let command = Command::request(request::UPDATE_AND_CREATE_TOPIC)
            .field("topic", topic)
            .field("defaultTopic", "TBW102")
            .field("readQueueNums", queues)
            .field("writeQueueNums", queues)
            .field("perm", 6)
            .field("topicFilterType", "SINGLE_TAG")
            .field("topicSysFlag", 0)
            .field("order", false);
        self.ask(address, &format!("to create topic {topic}"), command).await.map(drop)
    }

    /// Creates the consumer group on every master.
    ///
    /// # Errors
    /// When a master cannot be asked or refuses; repeating is safe.
    pub async fn create_group(&self, group: &str) -> Result<(), ClusterError> {
        for (_, address) in self.masters().await? {
            self.create_group_on(&address, group).await?;
        }
        Ok(())
    }

    /// Creates the consumer group on every master that does not have it, to read the topic from its end: what is
    /// stored from now on, and nothing of what is there.
    ///
    /// It is closed until its place is set, so no consumer can begin elsewhere. A group that exists keeps its place, and stays
    /// closed if it is, unless it is one that was begun so and not finished.
    ///
    /// # Errors
    /// When a master cannot be asked, refuses, or holds another offset. The group is then closed there, and repeating
    /// finishes it.
    pub async fn create_group_at_end(&self, group: &str, topic: &str) -> Result<(), ClusterError> {
        let route = self.fresh_route(topic).await?;
        for (broker, address) in self.masters().await? {
            match self.group_settings_on(&address).await?.get(group) {
                None => self.put_group_on(&address, group, begun_group(group)).await?,
                Some(settings) if is_begun(settings) => {}
                Some(_) => continue,
            }
            for queue in route.read_queues.iter().filter(|queue| queue.broker == broker) {
                let end = self.queue_bounds(queue).await?.max;
                // Somebody may have opened or closed it meanwhile, and its place is no more to be changed.
                if !self.is_begun_on(&address, group).await? {
                    break;
                }
                self.commit_offset(group, queue, end).await?;
            }
            if self.is_begun_on(&address, group).await? {
                self.create_group_on(&address, group).await?;
            }
        }
        Ok(())
    }

    async fn is_begun_on(&self, address: &str, group: &str) -> Result<bool, ClusterError> {
        Ok(self.group_settings_on(address).await?.get(group).is_some_and(is_begun))
    }

    async fn create_group_on(&self, address: &str, group: &str) -> Result<(), ClusterError> {
        self.put_group_on(address, group, new_group(group)).await
    }

    /// The consumer groups the masters know.
    ///
    /// # Errors
    /// When a master cannot be asked or refuses.
    pub async fn groups(&self) -> Result<BTreeSet<String>, ClusterError> {
        let mut groups = BTreeSet::new();
        for (_, address) in self.masters().await? {
            groups.extend(self.groups_on(&address).await?);
        }
        Ok(groups)
    }

    /// The consumer groups known to the masters that answer.
    ///
    /// # Errors
    /// When none answers.
    pub async fn groups_known(&self) -> Result<BTreeSet<String>, ClusterError> {
        let masters = self.masters().await?;
        let asks = masters.iter().map(|(_, address)| self.groups_on(address));
        Ok(those_that_answer(join_all(asks).await)?.into_iter().flatten().collect())
    }

    /// The consumer groups of each master that answers in time, by its address.
    ///
    /// # Errors
    /// When the name servers do not say which masters there are.
    pub async fn groups_answered(
        &self,
        within: Duration,
    ) -> Result<BTreeMap<String, BTreeSet<String>>, ClusterError> {
        let asks = self.masters().await?.into_iter().map(async |(_, address)| {
            let groups = timeout(within, self.groups_on(&address)).await.ok()?.ok()?;
            Some((address, groups))
        });
        Ok(join_all(asks).await.into_iter().flatten().collect())
    }

    async fn groups_on(&self, address: &str) -> Result<BTreeSet<String>, ClusterError> {
        Ok(self.group_settings_on(address).await?.into_keys().collect())
    }

    /// The members of a group, each with a broker it is connected to.
    ///
    /// # Errors
    /// When no master answers. A group nobody is a member of has none.
    pub async fn members_of(&self, group: &str) -> Result<BTreeMap<String, String>, ClusterError> {
        let asked = format!("the members of {group}");
        let masters = self.masters().await?;
        let asks = masters.into_iter().map(async |(_, address)| {
            let command = Command::request(request::GET_CONSUMER_LIST_BY_GROUP).field("consumerGroup", group);
            let answer = self.request(&address, command, self.config().request_timeout).await?;
            Ok((address, answer))
        });
        let mut members = BTreeMap::new();
        for (address, answer) in those_that_answer(join_all(asks).await)? {
            // Brokers answer for an empty group as for one they do not know: with an error.
            if answer.code != response::SUCCESS {
                continue;
            }
            let body = parsed(&address, &asked, &answer)?;
            if let Some(Value::Array(ids)) = body.get("consumerIdList") {
                let ids = ids.iter().filter_map(Value::as_str);
                members.extend(ids.map(|id| (id.to_owned(), address.clone())));
            }
        }
        Ok(members)
    }

    /// Asks every member of a group for its running information; by client id what it answers, or why it does not. `told` goes with
    /// the question.
    ///
    /// # Errors
    /// When no broker can say which members there are.
    pub async fn ask_members(
        &self,
        group: &str,
        told: &BTreeMap<String, String>,
    ) -> Result<Vec<(String, Answer)>, ClusterError> {
        let members = self.members_of(group).await?;
        // Side by side: one that is frozen must not keep the others waiting.
        let asks = members.into_iter().map(async |(member, broker)| {
            let answer = self.ask_member(&broker, group, &member, told).await;
            (member, answer)
        });
        Ok(join_all(asks).await)
    }

    /// Asks one of them, through a broker it is connected to.
    async fn ask_member(
        &self,
        broker: &str,
        group: &str,
        member: &str,
        told: &BTreeMap<String, String>,
    ) -> Answer {
        let info = self.running_info(broker, group, member, told).await?;
        let no_properties = || malformed(broker, &running_info_of(member), "no properties");
        info.get("properties").map(texts).ok_or_else(no_properties)
    }

    async fn running_info(
        &self,
        broker: &str,
        group: &str,
        member: &str,
        told: &BTreeMap<String, String>,
    ) -> Result<Value, ClusterError> {
        let asked = running_info_of(member);
        let command = Command::request(request::GET_CONSUMER_RUNNING_INFO)
            .field("consumerGroup", group)
            .field("clientId", member)
            .field("jstackEnable", false);
        let command = told.iter().fold(command, |command, (name, value)| command.field(name, value));
        parsed(broker, &asked, &self.ask(broker, &asked, command).await?)
    }

    /// What a member of a group has in hand of each of its queues, as it says itself; nothing of queues it does not speak of.
    ///
    /// # Errors
    /// When the broker or the member does not answer.
    pub async fn in_hand(
        &self,
        broker: &str,
        group: &str,
        member: &str,
    ) -> Result<BTreeMap<Queue, Hand>, ClusterError> {
        let info = self.running_info(broker, group, member, &BTreeMap::new()).await?;
        let table = info.get("mqTable").map(Value::entries).unwrap_or_default();
        let hand = |value: &Value| {
            let messages = value.get("cachedMsgCount")?.as_i64()?;
            Some(Hand { messages, consumed: value.get("commitOffset")?.as_i64()? })
        };
        Ok(table.iter().filter_map(|(key, value)| Some((queue_of(key)?, hand(value)?))).collect())
    }

    /// Every topic the name servers know, RocketMQ's own among them.
    ///
    /// # Errors
    /// When no name server answers.
    pub async fn topics(&self) -> Result<BTreeSet<String>, ClusterError> {
        let asked = "the list of topics";
        let (server, answer) = self
            .ask_any_name_server(asked, &Command::request(request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER))
            .await?;
        match parsed(&server, asked, &answer)?.get("topicList") {
            Some(Value::Array(names)) => {
                Ok(names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            _ => Err(malformed(&server, asked, "no topicList")),
        }
    }

    /// Name and address of every master registered with the name servers; one at least.
    pub(super) async fn masters(&self) -> Result<Vec<(String, String)>, ClusterError> {
        let brokers = self.brokers().await?;
        let masters = brokers.into_iter().filter_map(|(name, mut ids)| Some((name, ids.remove(&0)?)));
        let masters: Vec<_> = masters.collect();
        if masters.is_empty() { Err(ClusterError::NoBroker) } else { Ok(masters) }
    }

    async fn has_topic(&self, address: &str, topic: &str) -> Result<bool, ClusterError> {
        let command = Command::request(request::GET_TOPIC_STATS_INFO).field("topic", topic);
        let answer = self.request(address, command, self.config().request_timeout).await?;
        match answer.code {
            response::SUCCESS => Ok(true),
            response::TOPIC_NOT_EXIST => Ok(false),
            // 4.9 reports it under the general code.
            response::SYSTEM_ERROR if answer.remark().contains("not exist") => Ok(false),
            _ => Err(refused(address, &format!("whether topic {topic} exists"), &answer)),
        }
    }

    /// The bounds of every queue of the topic, from every master.
    ///
    /// # Errors
    /// When a master cannot be asked or refuses.
    pub async fn topic_stats(&self, topic: &str) -> Result<BTreeMap<Queue, Bounds>, ClusterError> {
        let command = Command::request(request::GET_TOPIC_STATS_INFO).field("topic", topic);
        self.offset_table(
            topic,
            "topic statistics",
            &command,
            |_| true,
            |entry| {
                Some(Bounds {
                    min: entry.get("minOffset")?.as_i64()?,
                    max: entry.get("maxOffset")?.as_i64()?,
                })
            },
        )
        .await
    }

    /// How far `group` has read each queue of the topic, from every master.
    ///
    /// # Errors
    /// When a master cannot be asked or refuses.
    pub async fn consume_stats(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<BTreeMap<Queue, Progress>, ClusterError> {
        self.consume_stats_on(group, topic, |_| true).await
    }

    /// As [`Self::consume_stats`], from some of the masters, by their addresses.
    ///
    /// # Errors
    /// When one of these cannot be asked or refuses.
    pub async fn consume_stats_on(
        &self,
        group: &str,
        topic: &str,
        masters: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<Queue, Progress>, ClusterError> {
        let command =
            Command::request(request::GET_CONSUME_STATS).field("consumerGroup", group).field("topic", topic);
        self.offset_table(topic, "consumer statistics", &command, masters, |entry| {
            Some(Progress {
                broker_offset: entry.get("brokerOffset")?.as_i64()?,
                consumer_offset: entry.get("consumerOffset")?.as_i64()?,
            })
        })
        .await
    }

    /// Reads the `offsetTable` both statistics share: a map whose keys are objects, which is not JSON.
    async fn offset_table<T>(
        &self,
        topic: &str,
        asked: &str,
        command: &Command,
        masters: impl Fn(&str) -> bool,
        value: impl Fn(&Value) -> Option<T>,
    ) -> Result<BTreeMap<Queue, T>, ClusterError> {
        let mut table = BTreeMap::new();
        for (_, address) in self.route(topic).await?.masters().filter(|(_, address)| masters(address)) {
            let answer = self.ask(address, asked, command.clone()).await?;
            let answer = parsed(address, asked, &answer)?;
            for (key, entry) in answer.get("offsetTable").map(Value::entries).unwrap_or_default() {
                let row = queue_of(key).zip(value(entry));
                let (queue, value) =
                    row.ok_or_else(|| malformed(address, asked, format!("an entry for {key:?}")))?;
                if queue.topic == topic {
                    table.insert(queue, value);
                }
            }
        }
        Ok(table)
    }

    /// A broker's settings by name, as it reports them.
    ///
    /// # Errors
    /// When the broker cannot be asked or refuses.
    pub async fn broker_config(&self, address: &str) -> Result<BTreeMap<String, String>, ClusterError> {
        let command = Command::request(request::GET_BROKER_CONFIG);
        let answer = self.ask(address, "its configuration", command).await?;
        let text = String::from_utf8_lossy(&answer.body);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect())
    }

    /// How long each master keeps messages at least, by its name; those that answer.
    ///
    /// # Errors
    /// When none answers.
    pub async fn reserves(&self) -> Result<BTreeMap<String, Duration>, ClusterError> {
        let mut reserves = Vec::new();
        for (broker, address) in self.masters().await? {
            reserves.push(self.broker_config(&address).await.and_then(|config| {
                let hours = config.get("fileReservedTime").and_then(|hours| hours.parse::<u32>().ok());
                let hours =
                    hours.ok_or_else(|| malformed(&address, "its configuration", "no fileReservedTime"))?;
                Ok((broker, hours * Duration::from_secs(3600)))
            }));
        }
        Ok(those_that_answer(reserves)?.into_iter().collect())
    }

    /// When the oldest message a master still has was stored, in milliseconds since 1970, by its name; those that answer and have one.
    ///
    /// # Errors
    /// When none answers.
    pub async fn oldest_messages(&self) -> Result<BTreeMap<String, i64>, ClusterError> {
        let mut oldest = Vec::new();
        for (broker, address) in self.masters().await? {
            oldest.push(self.broker_runtime(&address).await.map(|said| {
                let stored = said.get("earliestMessageTimeStamp")?.parse().ok();
                Some((broker, stored.filter(|stored: &i64| *stored > 0)?))
            }));
        }
        Ok(those_that_answer(oldest)?.into_iter().flatten().collect())
    }

    /// What a broker counts and says of itself by name: its version, when it started, how full its disk is.
    ///
    /// # Errors
    /// When the broker cannot be asked or refuses.
    pub async fn broker_runtime(&self, address: &str) -> Result<BTreeMap<String, String>, ClusterError> {
        let asked = "its runtime information";
        let answer = self.ask(address, asked, Command::request(request::GET_BROKER_RUNTIME_INFO)).await?;
        parsed(address, asked, &answer)?
            .get("table")
            .map(texts)
            .ok_or_else(|| malformed(address, asked, "no table"))
    }

    /// The messages stored under a unique key: none, one, or one per copy. A broker's index runs up to a second behind.
    ///
    /// # Errors
    /// When a master cannot be asked, refuses, or hands out a record that cannot be read.
    pub async fn messages_by_unique_key(
        &self,
        topic: &str,
        key: &str,
    ) -> Result<Vec<StoredMessage>, ClusterError> {
        let asked = format!("the messages with unique key {key}");
        let mut found = Vec::new();
        for (_, address) in self.route(topic).await?.masters() {
            let command = Command::request(request::QUERY_MESSAGE)
                .field("topic", topic)
                .field("key", key)
                .field("maxNum", 32)
                .field("beginTimestamp", 0)
                .field("endTimestamp", unix_millis() + 24 * 3_600_000);
            let answer = self.request(address, command, self.config().request_timeout).await?;
            match answer.code {
                response::SUCCESS => {}
                response::QUERY_NOT_FOUND => continue,
                _ => return Err(refused(address, &asked, &answer)),
            }
            for message in record::decode_records(answer.body) {
                let message = message.map_err(|error| malformed(address, &asked, error))?;
                // The index goes by hash: other keys may share it.
                if message.properties.get(UNIQ_KEY) == Some(key) {
                    found.push(message);
                }
            }
        }
        Ok(found)
    }
}

fn running_info_of(member: &str) -> String {
    format!("the running information of {member}")
}

/// The entries that are texts.
fn texts(table: &Value) -> BTreeMap<String, String> {
    let entries = table.entries().iter();
    let texts =
        entries.filter_map(|(name, value)| Some((name.as_str()?.to_owned(), value.as_str()?.to_owned())));
    texts.collect()
}

fn queue_of(key: &Value) -> Option<Queue> {
    Some(Queue {
        topic: key.get("topic")?.as_str()?.to_owned(),
        broker: key.get("brokerName")?.as_str()?.to_owned(),
        id: i32::try_from(key.get("queueId")?.as_i64()?).ok()?,
    })
}
