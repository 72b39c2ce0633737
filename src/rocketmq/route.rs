//! Routes: which brokers hold a topic's queues, as the name servers tell it.
//!
//! Known routes are asked for again every 30 s, and at once when a broker's answer shows one to be stale. One that has lost a broker
//! is asked for every 2 s until it is back, for nobody else tells; but not for ever. A name server that cannot be reached, or that
//! has just started and knows no topic yet, never takes a known route away: brokers are the judges of what exists, and they
//! refuse what does not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

use super::{
    cluster::{BrokerAddresses, Cluster, ClusterError, Shared, malformed, parsed, refused},
    codes::{request, response},
    command::Command,
    loose_json::{self, Value},
};

const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// A route that has lost a broker, or a broker's master, is asked for this often.
const SHRUNK_REFRESH_EVERY: Duration = Duration::from_secs(2);
/// After this long nobody waits for the broker any more.
const SHRUNK_FOR: Duration = Duration::from_secs(180);

/// Where one name server has refused, the others are asked too, but nobody waits long for them.
const SECOND_OPINION_WITHIN: Duration = Duration::from_millis(500);

const PERM_READ: i64 = 4;
const PERM_WRITE: i64 = 2;
/// Queues that are read of a topic, on all brokers together. A name server tells their number, and each takes memory here.
const MAX_QUEUES: usize = 65_536;
/// The longest name of a broker, which stands in each of its queues.
const MAX_BROKER_NAME_BYTES: usize = 255;

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

    /// Whether all these brokers are in it, and every master.
    fn covers(&self, brokers: &BTreeMap<String, BrokerAddresses>) -> bool {
        let covers = |name: &String, ids: &BrokerAddresses| {
            self.brokers.get(name).is_some_and(|mine| mine.contains_key(&0) || !ids.contains_key(&0))
        };
        brokers.iter().all(|(name, ids)| covers(name, ids))
    }

    /// Every master's name and address.
    pub fn masters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.brokers.iter().filter_map(|(name, ids)| Some((name.as_str(), ids.get(&0)?.as_str())))
    }
}

#[derive(Debug, Default)]
pub(super) struct Routes {
    known: Mutex<HashMap<String, Known>>,
}

/// What is known of one topic.
#[derive(Debug)]
struct Known {
    route: Arc<Route>,
    /// When it lost a broker or a master last, and all it had before.
    shrunk: Option<(Instant, BTreeMap<String, BrokerAddresses>)>,
}

impl Routes {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, topic: &str) -> Option<Arc<Route>> {
        self.known().get(topic).map(|known| Arc::clone(&known.route))
    }

    /// Takes note of what a name server says.
    fn learn(&self, topic: &str, route: Route) -> Arc<Route> {
        let route = Arc::new(route);
        let mut all = self.known();
        let before = all.get(topic);
        if before.is_none_or(|before| before.route != route) {
            debug!(topic, brokers = ?route.brokers, queues = route.write_queues.len(), "route learned");
        }
        let shrunk = before.and_then(|Known { route: last, shrunk }| {
            let (mut since, mut whole) = match shrunk {
                Some((since, whole)) if since.elapsed() < SHRUNK_FOR => (*since, whole.clone()),
                _ => (Instant::now(), BTreeMap::new()),
            };
            if !route.covers(&last.brokers) {
                since = Instant::now();
                for (name, ids) in &last.brokers {
                    whole.entry(name.clone()).or_default().extend(ids.clone());
                }
            }
            (!route.covers(&whole)).then_some((since, whole))
        });
        all.insert(topic.to_owned(), Known { route: Arc::clone(&route), shrunk });
        route
    }

    /// The topics whose routes are to be asked for: all, or those that have shrunk of late.
    fn due(&self, all: bool) -> Vec<String> {
        let shrunk = |known: &Known| known.shrunk.as_ref().is_some_and(|(at, _)| at.elapsed() < SHRUNK_FOR);
        let known = self.known();
        known.iter().filter(|(_, known)| all || shrunk(known)).map(|(topic, _)| topic.clone()).collect()
    }
}

impl Cluster {
    /// The topic's route: the known one, or the name servers' answer.
    ///
    /// # Errors
    /// [`ClusterError::UnknownTopic`] when the name servers know no such topic.
    pub async fn route(&self, topic: &str) -> Result<Arc<Route>, ClusterError> {
        match self.routes().of(topic) {
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

    /// The topic's route now that a broker says it has no such topic: a known route no longer counts where the name
    /// servers do not know the topic either.
    ///
    /// # Errors
    /// As [`Self::route`].
    pub(super) async fn doubted_route(&self, topic: &str) -> Result<Arc<Route>, ClusterError> {
        match fetch(self.shared(), topic).await {
            Err(unknown @ ClusterError::UnknownTopic(_)) => {
                self.routes().known().remove(topic);
                Err(unknown)
            }
            Err(_) => self.route(topic).await,
            Ok(route) => Ok(self.routes().learn(topic, route)),
        }
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
        self.ask_name_server_that(succeeds, asked, command).await
    }

    /// As [`Self::ask_any_name_server`], with success of a kind.
    async fn ask_name_server_that(
        &self,
        settles: fn(&Command) -> bool,
        asked: &str,
        command: &Command,
    ) -> Result<(String, Command), ClusterError> {
        let (server, answer) = ask_name_servers(self.shared(), settles, asked, command).await?;
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
        let info = parsed(&server, ASKED, &answer)?;
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
        let (server, answer) = self.ask_name_server_that(lists_brokers, ASKED, &command).await?;
        let info = parsed(&server, ASKED, &answer)?;
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

fn succeeds(answer: &Command) -> bool {
    answer.code == response::SUCCESS
}

fn lists_brokers(answer: &Command) -> bool {
    let info = loose_json::parse(&answer.body);
    succeeds(answer)
        && info.is_ok_and(|info| info.get("brokerAddrTable").is_some_and(|table| !table.entries().is_empty()))
}

/// Asks the name server that answered last; if its answer does not settle the question, the others in turn. One that has just
/// started, or whom the brokers do not reach, knows no topic and no broker, and says so.
async fn ask_name_servers(
    shared: &Shared,
    settles: fn(&Command) -> bool,
    asked: &str,
    command: &Command,
) -> Result<(String, Command), ClusterError> {
    let config = shared.config();
    let servers = &config.name_servers;
    let first = shared.current_name_server().load(Ordering::Relaxed);
    let (mut refusal, mut last_error) = (None, None);
    for turn in 0..servers.len() {
        let index = (first + turn) % servers.len();
        let server = &servers[index];
        let most = if refusal.is_some() { SECOND_OPINION_WITHIN } else { config.request_timeout };
        match shared.request(server, command.clone(), most.min(config.request_timeout)).await {
            Ok(answer) if settles(&answer) => {
                shared.current_name_server().store(index, Ordering::Relaxed);
                return Ok((server.clone(), answer));
            }
            Ok(answer) => drop(refusal.get_or_insert((server.clone(), answer))),
            Err(error) => {
                debug!(%error, asked, "a name server does not answer; trying the next");
                last_error = Some(error);
            }
        }
    }
    if let Some(refusal) = refusal {
        return Ok(refusal);
    }
    Err(last_error.map_or_else(|| malformed("-", asked, "no name server is configured"), ClusterError::from))
}

async fn refresh(routes: &Routes, shared: &Shared, topic: &str) -> Result<Arc<Route>, ClusterError> {
    match fetch(shared, topic).await {
        Ok(route) => Ok(routes.learn(topic, route)),
        Err(error) => match routes.of(topic) {
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
    let (server, answer) = ask_name_servers(shared, succeeds, &asked, &command).await?;
    match answer.code {
        response::SUCCESS => decode(topic, &answer.body).map_err(|error| malformed(&server, &asked, error)),
        response::TOPIC_NOT_EXIST => Err(ClusterError::UnknownTopic(topic.to_owned())),
        _ => Err(refused(&server, &asked, &answer)),
    }
}

pub(crate) fn decode(topic: &str, body: &[u8]) -> Result<Route, String> {
    let data = loose_json::parse(body).map_err(|error| error.to_string())?;
    let items = |name| data.get(name).map(Value::items).unwrap_or_default();
    let brokers = items("brokerDatas").iter().map(broker).collect::<Option<BTreeMap<_, _>>>();
    let brokers = brokers.ok_or("a broker without a name or addresses")?;
    let mut route = Route { brokers, ..Route::default() };
    for data in items("queueDatas") {
        let broker = data.get("brokerName").and_then(Value::as_str);
        let [reads, writes, perm] =
            ["readQueueNums", "writeQueueNums", "perm"].map(|name| data.get(name).and_then(Value::as_i64));
        let (Some(broker), Some(reads), Some(writes), Some(perm)) = (broker, reads, writes, perm) else {
            return Err("it has queues that are not described".to_owned());
        };
        if broker.len() > MAX_BROKER_NAME_BYTES {
            let (long, most) = (broker.len(), MAX_BROKER_NAME_BYTES);
            return Err(format!("it has a broker with a name of {long} bytes, and at most {most} are read"));
        }
        let queues = |count: i64, known: usize| {
            let few = |count: &i32| usize::try_from(*count).is_ok_and(|count| known + count <= MAX_QUEUES);
            let queue = |id| Queue { topic: topic.to_owned(), broker: broker.to_owned(), id };
            let ids = i32::try_from(count).ok().filter(few).map(|count| 0..count);
            ids.map(|ids| ids.map(queue)).ok_or_else(|| {
                format!("it has {count} queues of {broker}, and at most {MAX_QUEUES} are read of a topic")
            })
        };
        if perm & PERM_READ != 0 {
            let known = route.read_queues.len();
            route.read_queues.extend(queues(reads, known)?);
        }
        // A slave takes no message, and stays in the route when its master is gone.
        if perm & PERM_WRITE != 0 && route.master(broker).is_some() {
            let known = route.write_queues.len();
            route.write_queues.extend(queues(writes, known)?);
        }
    }
    route.read_queues.sort_unstable();
    route.write_queues.sort_unstable();
    Ok(route)
}

fn broker(data: &Value) -> Option<(String, BrokerAddresses)> {
    let addresses = data.get("brokerAddrs")?.entries().iter();
    let addresses = addresses.map(|(id, address)| Some((id.as_i64()?, address.as_str()?.to_owned())));
    Some((data.get("brokerName")?.as_str()?.to_owned(), addresses.collect::<Option<_>>()?))
}

/// Asks again for every known route, for as long as the cluster's handle lives.
pub(super) async fn keep_fresh(routes: Arc<Routes>, shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(SHRUNK_REFRESH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = HashSet::new();
    let mut all_at = Instant::now();
    loop {
        ticks.tick().await;
        let all = Instant::now() >= all_at;
        if all {
            all_at = Instant::now() + REFRESH_EVERY;
        }
        for topic in routes.due(all) {
            match fetch(&shared, &topic).await {
                Ok(route) => {
                    failing.remove(&topic);
                    routes.learn(&topic, route);
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
    fn queues_of_a_broker_without_a_master_are_read_and_not_written() {
        let body = br#"{"brokerDatas":[{"brokerAddrs":{"1":"127.0.0.1:10941"},"brokerName":"b"}],
            "queueDatas":[{"brokerName":"b","perm":6,"readQueueNums":2,"writeQueueNums":2}]}"#;
        let route = decode("t", body).unwrap();
        assert_eq!((route.read_queues.len(), route.write_queues.len()), (2, 0));
    }

    #[test]
    fn a_name_server_before_4_9_4_writes_numbers_as_keys() {
        let body =
            br#"{"brokerDatas":[{"brokerAddrs":{0:"127.0.0.1:10911",1:"127.0.0.1:10921"},"brokerName":"a"}],
            "queueDatas":[{"brokerName":"a","perm":6,"readQueueNums":1,"writeQueueNums":1}]}"#;
        assert_eq!(decode("t", body).unwrap().master("a"), Some("127.0.0.1:10911"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_that_has_lost_a_broker_or_a_master_is_asked_for_more_often_for_a_while() {
        let route = |brokers: &[(&str, &[i64])]| {
            let of = |ids: &[i64]| ids.iter().map(|id| (*id, "127.0.0.1:1".to_owned())).collect();
            let brokers = brokers.iter().map(|(name, ids)| ((*name).to_owned(), of(ids)));
            Route { brokers: brokers.collect(), ..Route::default() }
        };
        let whole: &[(&str, &[i64])] = &[("a", &[0, 1]), ("b", &[0])];
        let lacking: [&[(&str, &[i64])]; 3] = [&[("a", &[0, 1])], &[("a", &[1]), ("b", &[0])], &[]];
        for lacking in lacking {
            let routes = Routes::default();
            routes.learn("t", route(whole));
            routes.learn("t", route(&[("a", &[0]), ("b", &[0]), ("c", &[0])]));
            assert_eq!(routes.due(false), [""; 0], "nobody needs the slave");
            routes.learn("t", route(lacking));
            assert_eq!(routes.due(false), ["t"]);
            routes.learn("t", route(&[("a", &[0]), ("b", &[0]), ("c", &[0])]));
            assert_eq!(routes.due(false), [""; 0], "all are back");
            routes.learn("t", route(lacking));
            tokio::time::advance(SHRUNK_FOR).await;
            assert_eq!((routes.due(false), routes.due(true)), (vec![], vec!["t".to_owned()]));
            routes.learn("t", route(lacking));
            assert_eq!(routes.due(false), [""; 0], "nobody waits for it any more");
            routes.learn("t", route(&[]));
            assert_eq!(
                routes.due(false).len(),
                usize::from(!lacking.is_empty()),
                "more is lost, if there was more"
            );
        }
        // One that came while another was away, and went, is waited for as well.
        let routes = Routes::default();
        for brokers in ["ab", "a", "ac", "a", "ab"] {
            let brokers = brokers.split("").filter(|name| !name.is_empty());
            routes.learn("t", route(&brokers.map(|name| (name, &[0][..])).collect::<Vec<_>>()));
        }
        assert_eq!(routes.due(false), ["t"], "c is still away");
    }

    #[test]
    fn a_route_that_only_claims_to_be_large_takes_no_memory() {
        let route = |broker: &str, queues: &[i32]| {
            let queues: Vec<_> = queues
                .iter()
                .map(|count| serde_json::json!({"brokerName": broker, "perm": 6, "readQueueNums": count, "writeQueueNums": 1}))
                .collect();
            decode("t", serde_json::json!({ "queueDatas": queues }).to_string().as_bytes())
        };
        assert!(route("b", &[i32::MAX]).unwrap_err().contains("2147483647 queues"));
        assert!(route("b", &[40_000, 40_000]).unwrap_err().contains("40000 queues"));
        assert!(route(&"b".repeat(256), &[1]).unwrap_err().contains("256 bytes"));
        assert_eq!(route("b", &[65_536]).unwrap().read_queues.len(), 65_536);
    }

    #[test]
    fn what_no_name_server_should_say_is_an_error() {
        for body in [
            &b"<html>"[..],
            br#"{"brokerDatas":[{"brokerName":"a"}]}"#,
            br#"{"queueDatas":[{"brokerName":"a","perm":6}]}"#,
            br#"{"queueDatas":[{"brokerName":"a","perm":6,"readQueueNums":2147483647,"writeQueueNums":1}]}"#,
            br#"{"queueDatas":[{"brokerName":"a","perm":6,"readQueueNums":-1,"writeQueueNums":1}]}"#,
        ] {
            assert!(decode("t", body).is_err(), "{}", String::from_utf8_lossy(body));
        }
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
