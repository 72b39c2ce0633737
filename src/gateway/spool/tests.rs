//! The spool below a gateway that reaches no RocketMQ.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{OnUnavailable, Spool, SpoolConfig};
use crate::{
    gateway::publish::{PublishConfig, PublishError, PublishRequest, Publisher},
    rocketmq::{Cluster, ClusterConfig, properties::PropertiesBuilder},
};

fn publisher(folder: &Path) -> Arc<Publisher> {
    publisher_with(folder, PublishConfig { budget: Duration::from_millis(1_500), ..PublishConfig::default() })
}

fn publisher_with(folder: &Path, config: PublishConfig) -> Arc<Publisher> {
    let spool = SpoolConfig {
        path: Some(folder.to_owned()),
        policy: OnUnavailable::Spool,
        max_disk_use: 100,
        after: Duration::from_millis(100),
        ..config.spool
    };
    let config = PublishConfig { spool, audit: false, ..config };
    Arc::new(Publisher::new(Cluster::new(ClusterConfig::new(Vec::new())), config).unwrap())
}

fn request(publisher: &Publisher, topic: &str, defer: Option<Duration>) -> PublishRequest {
    PublishRequest {
        topic: topic.parse().unwrap(),
        bodies: vec![Bytes::from_static(b"x")],
        properties: PropertiesBuilder::new(),
        accepted_ms: 0,
        defer,
        wants_ids: false,
        permit: publisher.admit().unwrap(),
    }
}

/// A disk that does not answer whoever opens a topic's spool, as long as this lives: a pipe stands for one of the files.
struct Hung(PathBuf);

impl Hung {
    fn new(folder: &Path, topic: &str) -> Self {
        let folder = folder.join(format!("topic-{topic}"));
        std::fs::create_dir(&folder).unwrap();
        let pipe = folder.join("done");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        Self(pipe)
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Who reads it hears an error, and nobody else finds it.
        let writer = File::options().read(true).write(true).open(&self.0).unwrap();
        std::fs::remove_file(&self.0).unwrap();
        drop(writer);
    }
}

#[tokio::test]
async fn a_disk_that_hangs_keeps_no_producer_waiting_beyond_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = publisher(folder.path());
    let hung = Hung::new(folder.path(), "t");
    let publish = |defer| publisher.publish(request(&publisher, "t", defer));
    let stuck = publish(None).await;
    assert!(matches!(&stuck, Err(PublishError::Unknown(why)) if why.contains("disk")), "{stuck:?}");
    let (behind, deferred) = tokio::join!(publish(None), publish(Some(Duration::from_secs(60))));
    for refused in [behind, deferred] {
        assert!(
            matches!(&refused, Err(PublishError::Unavailable(why)) if why.contains("disk")),
            "{refused:?}"
        );
    }
    assert_eq!(publisher.under_way(), 0, "who has an answer takes no request's place");
    drop(hung);
    publish(None).await.unwrap();
    let (_, spool) = publisher.spool().unwrap().topics().pop().unwrap();
    assert_eq!(spool.messages(), 1);
}

#[tokio::test]
async fn names_that_nobody_can_use_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = publisher(folder.path());
    let spooling = || publisher.spool().unwrap().topics().into_iter().map(|(name, _)| name.to_string());
    publisher.existing_topic(&"asked-for".parse().unwrap()).await.unwrap_err();
    assert_eq!(spooling().count(), 0);
    // What stands in a folder's place fails every publish of its topic.
    for name in ["one", "two"] {
        File::create(folder.path().join(format!("topic-{name}"))).unwrap();
        publisher.publish(request(&publisher, name, None)).await.unwrap_err();
    }
    // As long as they are being created they are kept.
    let began = tokio::time::Instant::now();
    for used in 1.. {
        publisher.publish(request(&publisher, &format!("used-{used}"), None)).await.unwrap();
        if spooling().all(|name| name.starts_with("used")) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", spooling().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(spooling().count() > 0);
}

#[tokio::test]
async fn what_may_be_spooled_is_not_said_to_be_created() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = publisher(folder.path());
    let created = publisher.ensure_topic(&"new".parse().unwrap()).await;
    assert!(matches!(created, Err(PublishError::Unavailable(_))), "{created:?}");
    publisher.publish(request(&publisher, "new", None)).await.unwrap();
}

#[tokio::test]
async fn it_is_not_counted_on_for_a_while_after_it_did_not_take_something() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = publisher(folder.path());
    let stands_in = || publisher.spool().unwrap().stands_in();
    assert!(stands_in() && publisher.health().is_ok());
    File::create(folder.path().join("topic-broken")).unwrap();
    publisher.publish(request(&publisher, "broken", None)).await.unwrap_err();
    assert!(!stands_in() && publisher.health().is_err());
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(stands_in(), "nobody would try again");
    tokio::time::resume();
    let hung = Hung::new(folder.path(), "t");
    publisher.publish(request(&publisher, "t", None)).await.unwrap_err();
    assert!(!stands_in());
    drop(hung);
}

#[tokio::test]
async fn it_stands_in_only_for_a_gateway_that_spools_every_topic() {
    let (spool, refuse) = (OnUnavailable::Spool, OnUnavailable::Refuse);
    for (policy, of_one, expected) in [
        (spool, None, true),
        (spool, Some(spool), true),
        (spool, Some(refuse), false),
        (refuse, Some(spool), false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let policies = of_one.map(|policy| ("one".parse().unwrap(), policy)).into_iter().collect();
        let path = Some(folder.path().to_owned());
        let config = SpoolConfig { path, policy, policies, ..SpoolConfig::default() };
        let opened = Spool::open(config).unwrap().unwrap();
        assert_eq!(opened.stands_in(), expected, "{policy:?}, one {of_one:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = Some(folder.path().to_owned());
    let config = SpoolConfig { path, policy: spool, max_bytes: 0, ..SpoolConfig::default() };
    assert!(!Spool::open(config).unwrap().unwrap().stands_in(), "no topic may have more");
}

#[tokio::test]
async fn without_creating_topics_only_those_that_are_known_without_rocketmq_are_spooled() {
    let folder = tempfile::tempdir().unwrap();
    let before = publisher(folder.path());
    before.publish(request(&before, "earlier", None)).await.unwrap();
    before.drain().await;
    drop(before);
    let policies = [("named".parse().unwrap(), OnUnavailable::Spool)].into();
    let spool = SpoolConfig { policies, ..SpoolConfig::default() };
    let config = PublishConfig { create_topics: false, spool, ..PublishConfig::default() };
    let publisher = publisher_with(folder.path(), config);
    for topic in ["earlier", "named"] {
        publisher.publish(request(&publisher, topic, None)).await.unwrap();
    }
    let stranger = publisher.publish(request(&publisher, "stranger", None)).await;
    assert!(matches!(stranger, Err(PublishError::Unavailable(_))), "{stranger:?}");
}

#[tokio::test]
async fn of_very_many_messages_in_one_publish_each_has_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let budget = Duration::from_secs(30);
    let publisher = publisher_with(folder.path(), PublishConfig { budget, ..PublishConfig::default() });
    let mut ids = BTreeSet::new();
    // The first is tried, the second goes behind it.
    for _ in 0..2 {
        let bodies = vec![Bytes::from_static(b"x"); 25_000];
        let many = PublishRequest { bodies, wants_ids: true, ..request(&publisher, "t", None) };
        ids.extend(publisher.publish(many).await.unwrap().ids.into_iter().map(|id| id.number()));
    }
    let (_, spool) = publisher.spool().unwrap().topics().pop().unwrap();
    assert_eq!((ids.len(), spool.messages()), (50_000, 50_000));
}

#[tokio::test]
async fn a_disk_that_hangs_does_not_keep_the_gateway_from_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let publisher = publisher(folder.path());
    let hung = Hung::new(folder.path(), "t");
    publisher.publish(request(&publisher, "t", None)).await.unwrap_err();
    let stopped = Arc::clone(&publisher);
    let stopping = tokio::spawn(async move { stopped.drain().await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!stopping.is_finished(), "what was begun is waited for");
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    while !stopping.is_finished() {
        assert!(began.elapsed() < publisher.budget() + Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    stopping.await.unwrap();
    drop(hung);
}
