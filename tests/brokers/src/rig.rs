//! A whole cluster in one call: name server, brokers, nsqlookupd, nsqds.
//!
//! Boot is mostly processor time, so tests that break nothing share one rig per line ([`shared`]); tests that stop or
//! freeze servers start their own ([`Rig::start`]).

use std::sync::OnceLock;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::process::POLL;
use crate::rocketmq::{Broker, BrokerOptions, Flush, NameServer, Settings};
use crate::versions::Line;
use crate::{Error, Nsqd, NsqdOptions, Nsqlookupd, Result};

const REGISTER_LIMIT: Duration = Duration::from_secs(30);

/// What a rig consists of.
#[derive(Clone, Debug)]
pub struct RigOptions {
    /// Broker masters: `broker-a`, `broker-b`, … (at most 26).
    pub brokers: usize,
    /// nsqds, all registered with the one nsqlookupd.
    pub nsqds: usize,
    /// The cluster's name.
    pub cluster: String,
    /// When the brokers answer a send.
    pub flush: Flush,
    /// Changes to the name server.
    pub name_server: Settings,
    /// Changes to each broker.
    pub broker: Settings,
    /// Further flags of each nsqd.
    pub nsqd_flags: Vec<String>,
}

impl Default for RigOptions {
    /// Two brokers, two nsqds, nothing special about them.
    fn default() -> RigOptions {
        RigOptions {
            brokers: 2,
            nsqds: 2,
            cluster: "nsqbridge".to_owned(),
            flush: Flush::Async,
            name_server: Settings::new(),
            broker: Settings::new(),
            nsqd_flags: Vec::new(),
        }
    }
}

impl RigOptions {
    /// The same with [`Settings::light`] beneath the changes to name server and brokers.
    pub fn light(mut self) -> RigOptions {
        for settings in [&mut self.name_server, &mut self.broker] {
            *settings = Settings::light().and(settings);
        }
        self
    }
}

/// A running cluster of each kind. Dropping it kills everything.
pub struct Rig {
    /// Which RocketMQ this is.
    pub line: Line,
    /// The cluster's name.
    pub cluster: String,
    /// The brokers, in the order of their names.
    pub brokers: Vec<Broker>,
    /// The name server all brokers register with.
    pub name_server: NameServer,
    /// The nsqds.
    pub nsqds: Vec<Nsqd>,
    /// The nsqlookupd all nsqds register with.
    pub nsqlookupd: Nsqlookupd,
}

impl Rig {
    /// Starts a cluster and waits until every server is ready and registered.
    ///
    /// # Errors
    /// The fetch failed, or a server was not ready in time; the first failure is told.
    pub fn start(line: Line, options: &RigOptions) -> Result<Rig> {
        thread::scope(|scope| {
            let nsq = scope.spawn(|| start_nsq(options));
            // Brokers register when they start and then only every ten seconds, so the name server comes first.
            let name_server = NameServer::start(line, &options.name_server)?;
            let addr = name_server.addr();
            let brokers: Vec<_> = ('a'..='z')
                .take(options.brokers)
                .map(|letter| {
                    let broker = BrokerOptions::new(&[addr])
                        .cluster(&options.cluster)
                        .name(&format!("broker-{letter}"))
                        .flush(options.flush)
                        .settings(options.broker.clone());
                    scope.spawn(move || Broker::start(line, &broker))
                })
                .collect();
            let brokers = brokers.into_iter().map(joined).collect::<Result<_>>()?;
            let (nsqlookupd, nsqds) = joined(nsq)?;
            Ok(Rig { line, cluster: options.cluster.clone(), brokers, name_server, nsqds, nsqlookupd })
        })
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(Error::new("a thread that started a server panicked")))
}

fn start_nsq(options: &RigOptions) -> Result<(Nsqlookupd, Vec<Nsqd>)> {
    let lookupd = Nsqlookupd::start(&[])?;
    let nsqd = NsqdOptions { lookupds: vec![lookupd.tcp_addr()], flags: options.nsqd_flags.clone() };
    let nsqds: Vec<Nsqd> = (0..options.nsqds).map(|_| Nsqd::start(&nsqd)).collect::<Result<_>>()?;
    let deadline = Instant::now() + REGISTER_LIMIT;
    while let Some(missing) = nsqds.iter().find(|nsqd| !lookupd.lists(nsqd.http_addr())) {
        if Instant::now() >= deadline {
            let tail = missing.log_tail();
            return Err(Error::new(format!("an nsqd did not register with nsqlookupd within 30 s\n{tail}")));
        }
        thread::sleep(POLL);
    }
    Ok((lookupd, nsqds))
}

/// The rig all tests of this process share, started at the first call: one name server, two brokers, one nsqlookupd,
/// two nsqds, all [`light`](RigOptions::light). Its servers are nobody's to stop, freeze or reconfigure.
///
/// # Panics
/// If the rig cannot be started.
pub fn shared(line: Line) -> &'static Rig {
    static V4: OnceLock<Rig> = OnceLock::new();
    static V5: OnceLock<Rig> = OnceLock::new();
    let slot = match line {
        Line::V4 => &V4,
        Line::V5 => &V5,
    };
    slot.get_or_init(|| match Rig::start(line, &RigOptions::default().light()) {
        Ok(rig) => rig,
        Err(e) => panic!("cannot start the shared rig of RocketMQ {line}: {e}"),
    })
}
