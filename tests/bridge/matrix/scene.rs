//! Everything a bridge consists of, in one place, with something breakable between the parts.
//!
//! ```text
//!   producers ─▶ gateway, gateway ─┬─▶ broker-a (master, with a slave)
//!                                  └─▶ front ─ link ─▶ broker-b (master)        both through a front of the name server,
//!   consumers ◀── nsqd, nsqd ◀─ links ── transfer, transfer                     which tells the first front's address
//! ```

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nsqbridge::rocketmq::{Cluster, Queue};
use nsqbridge_brokers::{
    Broker, BrokerOptions, Flush, Line, Nsqd, Proxy, Rig, RigOptions, Settings, http, ports::Ports,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{
    front::Front,
    ledger::{CHANNELS, Ledger},
    load::Load,
    witnesses::{Told, Witnesses, held},
};
use crate::bridge::{
    Gateway, Program, SOON, SmallDisk, To, blocking, cluster, consuming, create_channel, eventually, own,
    spooling, stored_since, topic, transfer_at,
};

/// Where the nsqds say they are; the links listen there.
const NSQDS_AT: [u8; 4] = [127, 0, 0, 3];
const QUEUES_PER_BROKER: u32 = 4;
/// For what waits for a queue's lock to end, 60 s, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub struct Scene {
    pub line: Line,
    pub flush: Flush,
    pub rig: Rig,
    pub gateways: Vec<Gateway>,
    pub relays: Vec<Relay>,
    /// Before the second broker.
    pub front: Front,
    pub link: Proxy,
    /// Before the second nsqd: its TCP and its HTTP port. None while it is away: it would find its ports taken.
    pub nsqd_links: Mutex<Vec<Proxy>>,
    pub ledger: Arc<Ledger>,
    pub load: Load,
    /// Where the first gateway spools, where gateways spool.
    pub disk: Option<SmallDisk>,
    topic: String,
    cluster: Cluster,
    read_to: BTreeMap<Queue, i64>,
    witnesses: Witnesses,
    _other_spool: TempDir,
    _other_links: Vec<Proxy>,
    _slave: Broker,
    _name_server_front: Front,
    _consumers: Vec<JoinSet<()>>,
}

/// A transfer daemon.
pub struct Relay {
    pub process: Program,
    admin: SocketAddr,
    _ports: Ports,
}

impl Relay {
    /// The sum over all labels of a metric.
    fn metric(&self, name: &str) -> f64 {
        let Ok((_, text)) = blocking(|| http::get(self.admin, "/metrics")) else { return f64::NAN };
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

/// Where clients find an nsqd.
fn links_of(nsqd: &Nsqd) -> Vec<Proxy> {
    let real = [nsqd.tcp_addr(), nsqd.http_addr()];
    real.map(|real| Proxy::start_on((NSQDS_AT, real.port()).into(), real).unwrap()).into()
}

impl Scene {
    /// Starts the second nsqd again.
    pub fn nsqd_again(&self) {
        let mut links = self.nsqd_links.lock().unwrap();
        links.clear();
        blocking(|| self.rig.nsqds[1].start_again()).unwrap();
        *links = links_of(&self.rig.nsqds[1]);
    }

    /// With a disk the gateways spool, the first one there.
    pub async fn set(line: Line, flush: Flush, seed: u64, disk: Option<SmallDisk>) -> Self {
        let broadcast = format!("-broadcast-address={}", std::net::Ipv4Addr::from(NSQDS_AT));
        let rig = own(line, &RigOptions { flush, nsqd_flags: vec![broadcast], ..RigOptions::default() });
        let name_server = rig.name_server.addr();
        let slave = BrokerOptions::new(&[name_server])
            .name(rig.brokers[0].name())
            .id(1)
            .flush(flush)
            .settings(Settings::light());
        let slave = blocking(|| Broker::start(line, &slave)).unwrap();
        let link = Proxy::start(rig.brokers[1].addr()).unwrap();
        let front = Front::start(link.addr(), &[]).await;
        let name_server_front = Front::start(name_server, &[(rig.brokers[1].addr(), front.address)]).await;

        let (other_links, nsqd_links) = (links_of(&rig.nsqds[0]), Mutex::new(links_of(&rig.nsqds[1])));
        let topic = topic("matrix");
        for nsqd in &rig.nsqds {
            for channel in CHANNELS {
                create_channel(nsqd, &topic, channel).await;
            }
        }
        let queues = QUEUES_PER_BROKER.to_string();
        let mut gateways = Vec::new();
        let other_spool = tempfile::tempdir().unwrap();
        for index in 0..2 {
            let spool = match &disk {
                Some(disk) if index == 0 => disk.path(),
                _ => other_spool.path(),
            };
            let spool = spool.display().to_string();
            let flags = ["--topic-queues", &queues, "--log-format", "json"];
            let spooling = spooling(&spool);
            let spooling = if disk.is_some() { &spooling[..] } else { &[] };
            let flags = [&flags[..], spooling].concat();
            gateways.push(Gateway::start_at(name_server_front.address, &flags).await);
        }
        let ledger = Arc::new(Ledger::new(seed));
        let nsqds: Vec<_> = rig.nsqds.iter().collect();
        let consumers = (0..CHANNELS.len()).map(|channel| {
            let ledger = Arc::clone(&ledger);
            consuming(&nsqds, &topic, CHANNELS[channel], move |body| ledger.received(channel, &body))
        });
        let consumers = consumers.collect();
        let load = Load::start(&ledger, &gateways, &topic);
        let relays: Vec<_> = (0..2)
            .map(|_| {
                let ports = Ports::claim().unwrap();
                let admin = SocketAddr::from(([127, 0, 0, 1], ports.get(0)));
                let flags =
                    ["--admin-address", &admin.to_string(), "--log-level", "debug", "--log-format", "json"];
                let to = To::Lookupd(&rig.nsqlookupd);
                let process = transfer_at(name_server_front.address, &topic, &to, &flags);
                Relay { process, admin, _ports: ports }
            })
            .collect();
        let logs = gateways.iter().map(|gateway| &*gateway.process);
        let witnesses =
            Witnesses::new(logs.chain(relays.iter().map(|relay| &*relay.process)), rig.nsqds.len());
        let cluster = cluster(&rig);
        let mut scene = Self {
            line,
            flush,
            rig,
            gateways,
            relays,
            front,
            link,
            nsqd_links,
            ledger,
            load,
            disk,
            topic,
            cluster,
            read_to: BTreeMap::new(),
            witnesses,
            _other_spool: other_spool,
            _other_links: other_links,
            _slave: slave,
            _name_server_front: name_server_front,
            _consumers: consumers,
        };
        // The first publish creates the topic, and is no part of any measurement.
        scene.load.go_on();
        scene.acknowledges(0, 50, "the first messages").await;
        scene.settle().await;
        scene
    }

    /// Waits until so many from this number on were acknowledged.
    pub async fn acknowledges(&self, from: usize, more: usize, when: &str) {
        let enough = async || self.ledger.acknowledged_since(from) >= more;
        eventually(&format!("publishing goes on: {when}"), SOON, enough).await;
    }

    /// Waits until every consumer has what was acknowledged of these; how long that took.
    pub async fn delivers(&self, range: Range<usize>, when: &str) -> Duration {
        let started = Instant::now();
        while !self.ledger.delivered(range.clone()) {
            if started.elapsed() > PATIENCE {
                let where_it_is = self.search().await;
                panic!("consumers lack something {when}: {}; {where_it_is}", self.ledger.undelivered(range));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        started.elapsed()
    }

    /// Enters what is stored into the ledger, and tells what the gateways say of their spools.
    async fn search(&self) -> String {
        let topic = self.topic.replace('.', "|");
        for (queue, message) in stored_since(&self.cluster, &topic, &mut self.read_to.clone()).await {
            self.ledger.stored(&message.body, &queue.to_string(), message.queue_offset);
        }
        let spool = |gateway: &Gateway| {
            ["messages", "appended_messages_total", "drained_messages_total"]
                .map(|of| gateway.metric(&format!("nsqbridge_spool_{of}")))
        };
        format!("spooled now, ever, and drained: {:?}", self.gateways.iter().map(spool).collect::<Vec<_>>())
    }

    /// Pauses the producers and waits until nothing is under way any more; what the parts said until then.
    pub async fn settle(&mut self) -> Told {
        self.load.pause();
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = self.is_quiet().await {
            assert!(Instant::now() < deadline, "not settled within {PATIENCE:?}: {why}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let nsqd_links = self.nsqd_links.lock().unwrap();
        nsqd_links.iter().chain(&self._other_links).chain([&self.link]).for_each(Proxy::forget);
        drop(nsqd_links);
        self.witnesses.ask(&self.rig.nsqds)
    }

    /// Whether everything published is where it belongs and nothing is on its way; or what is not so.
    async fn is_quiet(&mut self) -> Result<(), String> {
        let holds = |it: bool, not: &str| if it { Ok(()) } else { Err(not.to_owned()) };
        holds(self.load.is_idle(), "a producer has not heard OK")?;
        let in_flight = "nsqbridge_gateway_in_flight_bytes";
        let idle = self.gateways.iter().all(|gateway| gateway.metric(in_flight) == 0.0);
        holds(idle, "a gateway has publishes under way")?;
        let spooled = "nsqbridge_spool_messages";
        let drained = self.gateways.iter().all(|gateway| gateway.metric(spooled) == 0.0);
        holds(drained, "a gateway has spooled messages")?;
        let topic = self.topic.replace('.', "|");
        // A name server that was away learns of each broker with its next registration.
        let masters = self.cluster.fresh_route(&topic).await.map(|route| route.masters().count());
        holds(matches!(masters, Ok(2)), "the name server does not know both masters")?;
        self.cluster.topic_stats(&topic).await.map_err(|error| error.to_string())?;
        let stored = stored_since(&self.cluster, &topic, &mut self.read_to).await;
        for (queue, message) in &stored {
            self.ledger.stored(&message.body, &queue.to_string(), message.queue_offset);
        }
        holds(stored.is_empty(), "messages were still being stored")?;
        holds(self.ledger.settled(), &self.ledger.missing())?;
        let held = self.rig.nsqds.iter().map(held).sum::<u64>();
        holds(held == 0, &format!("the nsqds have {held} messages left"))?;
        let queues = |relay: &Relay| relay.metric("nsqbridge_transfer_queues");
        let shared = self.relays.iter().all(|relay| queues(relay) > 0.0)
            && self.relays.iter().map(queues).sum::<f64>() == f64::from(2 * QUEUES_PER_BROKER);
        holds(shared, "the relays do not share the queues")?;
        let undrained = |relay: &Relay| relay.metric("nsqbridge_transfer_nsqd_undrained_messages");
        holds(
            self.relays.iter().all(|relay| undrained(relay) == 0.0),
            "the relays take the nsqds to have messages left",
        )
    }
}
