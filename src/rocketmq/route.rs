//! Routes: which brokers hold a topic's queues, as the name servers tell it.
//!
//! Known routes are asked for again every 30 s, and at once when a broker's answer shows one to be stale. A name server that cannot
//! be reached, or that has just started and knows no topic yet, never takes a known route away: brokers are the
//! judges of what exists, and they refuse what does not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use serde::Deserialize;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use super::{
    cluster::{BrokerAddresses, Cluster, ClusterError, Shared, malformed, refused},
    codes::{request, response},
    command::Command,
    loose_json,
};

const REFRESH_EVERY: Duration = Duration::from_secs(30);

/// Queues that are read of a topic, on all brokers together. A name server tells their number, and each takes memory here.
const MAX_QUEUES: i64 = 65_536;
/// The longest name of a broker, which stands in each of its queues.
const MAX_BROKER_NAME_BYTES: usize = 255;

const PERM_READ: i32 = 4;
const PERM_WRITE: i32 = 2;

/// One queue of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue {
    /// The topic.
    pub topic: String,
    /// The broker's name; master and slaves share it.
    pub broker: String,
    /// Counted per broker from 0.
    pub id: i32,
}

impl std::fmt::Display for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.broker, self.id)
    }
}

/// Where a topic lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// Queues that may be written, in order.
    pub write_queues: Vec<Queue>,
    /// Queues that may be read, in order.
    pub read_queues: Vec<Queue>,
    /// Each broker's addresses by broker id; 0 is the master.
    pub brokers: BTreeMap<String, BrokerAddresses>,
}

impl Route {
    /// The master's address; `None` while the broker has none.
    #[must_use]
    pub fn master(&self, broker: &str) -> Option<&str> {
        self.brokers.get(broker)?.get(&0).map(String::as_str)
    }

    /// Every master's name and address.
    pub fn masters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.brokers.iter().filter_map(|(name, ids)| Some((name.as_str(), ids.get(&0)?.as_str())))
    }
}

#[derive(Debug, Default)]
pub(super) struct Routes {
    known: Mutex<HashMap<String, Arc<Route>>>,
}

impl Routes {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Route>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cluster {
    /// The topic's route: the known one, or the name servers' answer.
    ///
    /// # Errors
    /// [`ClusterError::UnknownTopic`] when the name servers know no such topic.
    pub async fn route(&self, topic: &str) -> Result<Arc<Route>, ClusterError> {
        let known = self.routes().known().get(topic).cloned();
        match known {
            Some(route) => Ok(route),
            None => self.fresh_route(topic).await,
        }
    }

    /// The topic's route as the name servers tell it now; the known route when they cannot or do not know.
    ///
    /// # Errors
    /// As [`Self::route`], where no route was known before.
    pub async fn fresh_route(&self, topic: &str) -> Result<Arc<Route>, ClusterError> {
        refresh(self.routes(), self.shared(), topic).await
    }

    /// Forgets a route: its brokers say the topic is gone.
    pub fn forget_route(&self, topic: &str) {
        self.routes().known().remove(topic);
    }

    /// The address of the master of a queue's broker.
    ///
    /// # Errors
    /// [`ClusterError::NoMaster`] when the route names none.
    pub(super) async fn master_of(&self, queue: &Queue) -> Result<String, ClusterError> {
        if let Some(master) = self.route(&queue.topic).await?.master(&queue.broker) {
            return Ok(master.to_owned());
        }
        let route = self.fresh_route(&queue.topic).await?;
        let master = route.master(&queue.broker).map(str::to_owned);
        master.ok_or_else(|| ClusterError::NoMaster(queue.broker.clone()))
    }

    /// Asks the name servers in turn until one answers with success.
    pub(super) async fn ask_any_name_server(
        &self,
        asked: &str,
        command: &Command,
    ) -> Result<(String, Command), ClusterError> {
        let (server, answer) = ask_name_servers(self.shared(), asked, command).await?;
        if answer.code == response::SUCCESS {
            Ok((server, answer))
        } else {
            Err(refused(&server, asked, &answer))
        }
    }

    /// The topics brokers keep under their own name and their cluster's.
    ///
    /// # Errors
    /// When no name server answers.
    pub async fn kept_topics(&self) -> Result<BTreeSet<String>, ClusterError> {
        const ASKED: &str = "the names of brokers and clusters";
        let command = Command::request(request::GET_BROKER_CLUSTER_INFO);
        let (server, answer) = self.ask_any_name_server(ASKED, &command).await?;
        let info = loose_json::parse(&answer.body).map_err(|error| malformed(&server, ASKED, error))?;
        let names = ["brokerAddrTable", "clusterAddrTable"]
            .map(|table| info.get(table).map(loose_json::Value::entries));
        let names = names.into_iter().flatten().flatten();
        Ok(names.filter_map(|(name, _)| Some(name.as_str()?.to_owned())).collect())
    }

    /// Every broker registered with the name servers: name → addresses by broker id.
    ///
    /// # Errors
    /// When no name server answers.
    pub async fn brokers(&self) -> Result<BTreeMap<String, BrokerAddresses>, ClusterError> {
        const ASKED: &str = "the list of brokers";
        let command = Command::request(request::GET_BROKER_CLUSTER_INFO);
        let (server, answer) = self.ask_any_name_server(ASKED, &command).await?;
        let info = loose_json::parse(&answer.body).map_err(|error| malformed(&server, ASKED, error))?;
        let table = info.get("brokerAddrTable").map(loose_json::Value::entries).unwrap_or_default();
        let mut brokers = BTreeMap::new();
        for (name, data) in table {
            let name = name.as_str().ok_or_else(|| malformed(&server, ASKED, "a broker without a name"))?;
            let addresses = data.get("brokerAddrs").map(loose_json::Value::entries).unwrap_or_default();
            let addresses = addresses.iter().filter_map(|(id, address)| {
                let id = id.as_i64().or_else(|| id.as_str()?.parse().ok())?;
                Some((id, address.as_str()?.to_owned()))
            });
            brokers.insert(name.to_owned(), addresses.collect());
        }
        Ok(brokers)
    }
}

/// Asks the name server that answered last; if it does not, the others in turn.
async fn ask_name_servers(
    shared: &Shared,
    asked: &str,
    command: &Command,
) -> Result<(String, Command), ClusterError> {
    let config = shared.config();
    let servers = &config.name_servers;
    let first = shared.current_name_server().load(Ordering::Relaxed);
    let mut last_error = None;
    for turn in 0..servers.len() {
        let index = (first + turn) % servers.len();
        let server = &servers[index];
        match shared.request(server, command.clone(), config.request_timeout).await {
            Ok(answer) => {
                shared.current_name_server().store(index, Ordering::Relaxed);
                return Ok((server.clone(), answer));
            }
            Err(error) => {
                debug!(%error, asked, "a name server does not answer; trying the next");
                last_error = Some(error);
            }
        }
    }
    Err(last_error.map_or_else(|| malformed("-", asked, "no name server is configured"), ClusterError::from))
}

async fn refresh(routes: &Routes, shared: &Shared, topic: &str) -> Result<Arc<Route>, ClusterError> {
    let known = routes.known().get(topic).cloned();
    match fetch(shared, topic).await {
        Ok(route) => {
            let route = Arc::new(route);
            if known.as_ref() != Some(&route) {
                debug!(topic, brokers = ?route.brokers, queues = route.write_queues.len(), "route learned");
            }
            routes.known().insert(topic.to_owned(), Arc::clone(&route));
            Ok(route)
        }
        Err(error) => match known {
            Some(route) => {
                debug!(topic, %error, "keeping the known route");
                Ok(route)
            }
            None => Err(error),
        },
    }
}

async fn fetch(shared: &Shared, topic: &str) -> Result<Route, ClusterError> {
    let asked = format!("the route of {topic}");
    let command = Command::request(request::GET_ROUTEINFO_BY_TOPIC)
        .field("topic", topic)
        .field("acceptStandardJsonOnly", true);
    let (server, answer) = ask_name_servers(shared, &asked, &command).await?;
    match answer.code {
        response::SUCCESS => decode(topic, &answer.body).map_err(|error| malformed(&server, &asked, error)),
        response::TOPIC_NOT_EXIST => Err(ClusterError::UnknownTopic(topic.to_owned())),
        _ => Err(refused(&server, &asked, &answer)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteData {
    #[serde(default)]
    queue_datas: Vec<QueueData>,
    #[serde(default)]
    broker_datas: Vec<BrokerData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueueData {
    broker_name: String,
    read_queue_nums: i32,
    write_queue_nums: i32,
    perm: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BrokerData {
    broker_name: String,
    broker_addrs: BTreeMap<i64, String>,
}

/// A route that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("it has {0} queues, and at most {MAX_QUEUES} are read of a topic")]
    Queues(i64),
    #[error("it has a broker with a name of {0} bytes, and at most {MAX_BROKER_NAME_BYTES} are read")]
    BrokerName(usize),
}

pub(crate) fn decode(topic: &str, body: &[u8]) -> Result<Route, RouteError> {
    let data: RouteData = serde_json::from_slice(body)?;
    let most = |queues: &QueueData| i64::from(queues.read_queue_nums.max(queues.write_queue_nums).max(0));
    let count: i64 = data.queue_datas.iter().map(most).sum();
    if count > MAX_QUEUES {
        return Err(RouteError::Queues(count));
    }
    let longest = data.queue_datas.iter().map(|queues| queues.broker_name.len()).max().unwrap_or(0);
    if longest > MAX_BROKER_NAME_BYTES {
        return Err(RouteError::BrokerName(longest));
    }
    let queues = |permission: i32, count: fn(&QueueData) -> i32| {
        let readable = data.queue_datas.iter().filter(|queues| queues.perm & permission != 0);
        let mut queues: Vec<_> = readable
            .flat_map(|queues| {
                (0..count(queues)).map(|id| Queue {
                    topic: topic.to_owned(),
                    broker: queues.broker_name.clone(),
                    id,
                })
            })
            .collect();
        queues.sort_unstable();
        queues
    };
    Ok(Route {
        write_queues: queues(PERM_WRITE, |queues| queues.write_queue_nums),
        read_queues: queues(PERM_READ, |queues| queues.read_queue_nums),
        brokers: data.broker_datas.into_iter().map(|data| (data.broker_name, data.broker_addrs)).collect(),
    })
}

/// Asks again for every known route, for as long as the cluster's handle lives.
pub(super) async fn keep_fresh(routes: Arc<Routes>, shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(REFRESH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = HashSet::new();
    loop {
        ticks.tick().await;
        let topics: Vec<String> = routes.known().keys().cloned().collect();
        for topic in topics {
            match fetch(&shared, &topic).await {
                Ok(route) => {
                    failing.remove(&topic);
                    routes.known().insert(topic, Arc::new(route));
                }
                Err(error) => {
                    if failing.insert(topic.clone()) {
                        warn!(topic, %error, "route not refreshed; going on with the known one");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocketmq::command;

    #[test]
    fn a_route_lists_the_queues_by_permission_and_the_masters() {
        let body = br#"{"brokerDatas":[
            {"brokerAddrs":{"0":"127.0.0.1:10911","1":"127.0.0.1:10921"},"brokerName":"a","cluster":"c"},
            {"brokerAddrs":{"1":"127.0.0.1:10941"},"brokerName":"b","cluster":"c"}],
            "filterServerTable":{},"queueDatas":[
            {"brokerName":"b","perm":4,"readQueueNums":1,"topicSysFlag":0,"writeQueueNums":1},
            {"brokerName":"a","perm":6,"readQueueNums":3,"topicSysFlag":0,"writeQueueNums":2}]}"#;
        let route = decode("t", body).unwrap();
        let ids = |queues: &[Queue]| {
            queues.iter().map(|queue| format!("{}{}", queue.broker, queue.id)).collect::<Vec<_>>()
        };
        assert_eq!(ids(&route.write_queues), ["a0", "a1"]);
        assert_eq!(ids(&route.read_queues), ["a0", "a1", "a2", "b0"]);
        assert_eq!(route.masters().collect::<Vec<_>>(), [("a", "127.0.0.1:10911")]);
        assert_eq!(route.master("b"), None);
    }

    #[test]
    fn a_route_that_only_claims_to_be_large_takes_no_memory() {
        let route = |broker: &str, queues: i32| {
            let queues = serde_json::json!({
                "brokerName": broker, "perm": 6, "readQueueNums": queues, "writeQueueNums": 1,
            });
            decode("t", serde_json::json!({ "queueDatas": [queues] }).to_string().as_bytes())
        };
        assert!(matches!(route("b", i32::MAX), Err(RouteError::Queues(2_147_483_647))));
        assert!(matches!(route(&"b".repeat(256), 1), Err(RouteError::BrokerName(256))));
        assert_eq!(route("b", 65_536).unwrap().read_queues.len(), 65_536);
        assert_eq!(route("b", -1).unwrap().read_queues.len(), 0);
    }

    #[test]
    fn the_routes_of_real_name_servers_are_read() {
        for frame in [
            &include_bytes!("../../tests/golden/5.5.0/route.bin")[..],
            include_bytes!("../../tests/golden/4.9.7/route.bin"),
        ] {
            let answer = command::decode(&mut frame.into()).unwrap().unwrap();
            let route = decode("golden", &answer.body).unwrap();
            assert_eq!(route.write_queues.len(), 2);
            assert_eq!(route.write_queues, route.read_queues);
            assert!(route.master("broker-a").is_some_and(|address| address.starts_with("127.0.0.1:")));
        }
    }
}
