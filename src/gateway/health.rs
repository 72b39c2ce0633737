//! Watches whether RocketMQ can be expected to take what is published.
//!
//! It can as long as one broker answers, be it one that the name servers do not list any more or cannot be asked about: its
//! routes are known, and a load balancer that watches `/ping` must not take every gateway away because of a name server.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    observe::health::Dependency,
    rocketmq::{
        Cluster,
        message::{FIRST_VERSION_WITH_TIMERS, Levels},
    },
};

/// RocketMQ is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What was seen last.
#[derive(Debug)]
struct Seen {
    publishing: Result<(), String>,
    /// Whether RocketMQ was looked at.
    looked: bool,
    name_servers: Result<(), String>,
    brokers: BTreeMap<String, Result<(), String>>,
}

/// The watch.
#[derive(Debug)]
pub(super) struct Health {
    seen: Arc<Mutex<Seen>>,
    _watch: Option<AbortOnDropHandle<()>>,
}

impl Health {
    /// Begins to watch; bad until RocketMQ was seen.
    pub(super) fn watch(cluster: Cluster, levels: Levels) -> Self {
        let unseen = || Err("RocketMQ was not reached yet".to_owned());
        let seen =
            Seen { publishing: unseen(), looked: false, name_servers: unseen(), brokers: BTreeMap::new() };
        let seen = Arc::new(Mutex::new(seen));
        let watch = tokio::spawn(watch(cluster, Arc::clone(&seen), levels));
        Self { seen, _watch: Some(AbortOnDropHandle::new(watch)) }
    }

    /// Always good.
    #[cfg(test)]
    pub(super) fn good() -> Self {
        let seen = Seen { publishing: Ok(()), looked: true, name_servers: Ok(()), brokers: BTreeMap::new() };
        Self { seen: Arc::new(Mutex::new(seen)), _watch: None }
    }

    /// Whether RocketMQ can be expected to take what is published now, and why not.
    pub(super) fn state(&self) -> Result<(), String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).publishing.clone()
    }

    /// Whether one of these brokers answers; where none of them is listed any more, whether any broker does.
    pub(super) fn answers(&self, brokers: &BTreeSet<String>) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listed = brokers.iter().filter_map(|broker| seen.brokers.get(broker)).peekable();
        if listed.peek().is_none() { seen.publishing.is_ok() } else { listed.any(Result::is_ok) }
    }

    /// The servers publishing depends on, of which it can do without some.
    pub(super) fn dependencies(&self) -> Vec<Dependency> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let brokers = seen.brokers.iter();
        let brokers = brokers.map(|(name, state)| Dependency::part(format!("broker {name}"), state.clone()));
        let rocketmq = Dependency::part("RocketMQ", seen.publishing.clone());
        let name_servers = Dependency::part("name servers", seen.name_servers.clone());
        [rocketmq, name_servers].into_iter().chain(brokers).collect()
    }
}

async fn watch(cluster: Cluster, seen: Arc<Mutex<Seen>>, levels: Levels) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut masters: BTreeMap<String, String> = BTreeMap::new();
    let mut met = HashSet::new();
    loop {
        ticks.tick().await;
        let listed = cluster.brokers().await;
        let name_servers = listed.as_ref().map(drop).map_err(ToString::to_string);
        let mut unlisted: HashSet<String> = HashSet::new();
        if let Ok(brokers) = listed {
            unlisted = masters.keys().filter(|name| !brokers.contains_key(*name)).cloned().collect();
            let listed = brokers.into_iter();
            masters.extend(listed.filter_map(|(name, mut addresses)| Some((name, addresses.remove(&0)?))));
        }
        let looks = masters.iter().map(|(name, address)| {
            let cluster = &cluster;
            async move { (name.clone(), cluster.version(address).await.map_err(|error| error.to_string())) }
        });
        let versions: BTreeMap<String, Result<i32, String>> = join_all(looks).await.into_iter().collect();
        // A name server that has just started lists nobody for up to half a minute.
        masters.retain(|name, _| !unlisted.contains(name) || versions.get(name).is_some_and(Result::is_ok));
        for (name, version) in &versions {
            if let Ok(version) = version
                && met.insert(name.clone())
                && *version < FIRST_VERSION_WITH_TIMERS
            {
                warn_of_levels(name, levels);
            }
        }
        let publishing = match versions.values().find_map(|version| version.as_ref().err()) {
            _ if versions.values().any(Result::is_ok) => Ok(()),
            Some(reason) => Err(reason.clone()),
            None => Err(name_servers
                .clone()
                .err()
                .unwrap_or_else(|| "no RocketMQ broker is registered with the name servers".to_owned())),
        };
        let brokers = versions.into_iter().map(|(name, version)| (name, version.map(drop))).collect();
        report(&seen, Seen { publishing, looked: true, name_servers, brokers });
    }
}

fn report(seen: &Mutex<Seen>, now: Seen) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if !seen.looked || seen.publishing.is_ok() != now.publishing.is_ok() {
        match &now.publishing {
            Ok(()) => info!("RocketMQ is reachable"),
            Err(reason) => warn!(
                reason,
                "RocketMQ is not reachable; publishes are answered 503, or spooled where that was chosen"
            ),
        }
    }
    *seen = now;
}

fn warn_of_levels(broker: &str, levels: Levels) {
    match levels {
        Levels::RoundUp | Levels::Nearest => warn!(
            broker,
            "a RocketMQ 4 broker: `defer` is rounded up to 1s 5s 10s 30s 1m..10m 20m 30m 1h 2h (--inexact-defer)"
        ),
        Levels::Refuse => {
            warn!(broker, "a RocketMQ 4 broker: publishes with `defer` are refused (--inexact-defer)");
        }
    }
}
