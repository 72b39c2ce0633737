//! RocketMQ name servers and brokers.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use crate::java::run;
use crate::java::{CONF, prepare};
use crate::options::LISTEN;
pub use crate::options::{BrokerOptions, Flush, Settings};
use crate::server::{Launch, Ready, Server, listens, local};
use crate::versions::Line;
use crate::{Result, route};

/// How often a broker that missed its registration is told to register.
const NUDGE_EVERY: Duration = Duration::from_secs(2);

/// A RocketMQ name server.
pub struct NameServer(Server);

impl NameServer {
    /// Starts a name server.
    ///
    /// # Errors
    /// The fetch failed, or the server was not ready within three minutes.
    pub fn start(line: Line, settings: &Settings) -> Result<NameServer> {
        let server = Server::start("namesrv", |folder, ports| {
            let addr = local(ports.get(0));
            let conf = [("listenPort", addr.port().to_string()), ("bindAddress", addr.ip().to_string())];
            let main = "org.apache.rocketmq.namesrv.NamesrvStartup";
            let heap = ["-Xms32m", "-Xmx128m"];
            Ok(Launch {
                command: prepare(line, folder, &conf, settings, &heap, main)?,
                ready: Box::new(move |log| log.contains("boot success") && listens(addr)),
            })
        })?;
        Ok(NameServer(server))
    }

    /// Where clients and brokers connect.
    pub fn addr(&self) -> SocketAddr {
        self.port_addr(0)
    }

    /// Whether it lists the broker that advertises `broker`; `None` if it does not answer.
    pub fn lists(&self, broker: &str) -> Option<bool> {
        route::lists(self.addr(), broker)
    }
}

impl Deref for NameServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

/// A RocketMQ broker.
pub struct Broker {
    server: Server,
    name: String,
    route_addr: String,
}

/// Ready: it says so, it listens, and every name server that answers lists it.
fn registered(addr: SocketAddr, route_addr: String, name_servers: Vec<SocketAddr>, conf: PathBuf) -> Ready {
    let nudged = Mutex::new(None::<Instant>);
    Box::new(move |log| {
        if !log.contains("boot success") || !listens(addr) {
            return false;
        }
        let known = name_servers.iter().all(|ns| route::lists(*ns, &route_addr) != Some(false));
        let mut nudged = nudged.lock().unwrap_or_else(PoisonError::into_inner);
        if !known && nudged.is_none_or(|at| at.elapsed() >= NUDGE_EVERY) {
            *nudged = Some(Instant::now());
            // A broker that refuses registers on its own, only later.
            let _ = route::nudge(addr, &conf);
        }
        known
    })
}

impl Broker {
    /// Starts a broker and waits until those of its name servers that answer list it.
    ///
    /// # Errors
    /// The fetch failed, or the broker was not ready within three minutes.
    pub fn start(line: Line, options: &BrokerOptions) -> Result<Broker> {
        let title =
            if options.id == 0 { options.name.clone() } else { format!("{}-{}", options.name, options.id) };
        let server = Server::start(&title, |folder, ports| {
            let addr = local(ports.get(LISTEN));
            let route_addr = options.advertised(addr.port());
            let ready = registered(addr, route_addr, options.name_servers.clone(), folder.join(CONF));
            let heap = ["-Xms96m", "-Xmx512m", "-XX:MaxDirectMemorySize=1g"];
            let main = "org.apache.rocketmq.broker.BrokerStartup";
            let conf = options.conf(ports);
            Ok(Launch { command: prepare(line, folder, &conf, &options.settings, &heap, main)?, ready })
        })?;
        let route_addr = options.advertised(server.port_addr(LISTEN).port());
        Ok(Broker { server, name: options.name.clone(), route_addr })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port_addr(LISTEN)
    }

    /// Where name servers send clients: [`addr`](Broker::addr), unless `brokerIP1` was set.
    pub fn route_addr(&self) -> &str {
        &self.route_addr
    }

    /// The broker's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Deref for Broker {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
