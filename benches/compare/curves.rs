//! What publishing costs as one thing grows: topics, connections, the size of a message, brokers.
//!
//! Each point has a gateway of its own, so that its peak memory is that point's.

use futures_util::{StreamExt, stream};
use nsqbridge::rocketmq::Cluster;
use nsqbridge_brokers::{Flush, Rig, shipped};

use crate::{
    Plan,
    load::{self, Load, request},
    parts::{
        Bridge, Fresh, all_stored, cluster, cpu_seconds, fresh_nsqd, new_topic, one_broker, peak_mib,
        published, rig, warm_up,
    },
    publish::BODY,
    report::Report,
    table::{Curve, figure},
};

/// How a point is loaded.
struct Point {
    name: String,
    topics: usize,
    connections: usize,
    body: usize,
}

impl Point {
    /// The topics of one connection: together the connections have all, and none has more than its share.
    fn requests(&self, address: std::net::SocketAddr, topics: &[String], connection: usize) -> Vec<Vec<u8>> {
        let of_topic =
            |topic: &String| request(address, &format!("/pub?topic={topic}"), &vec![b'x'; self.body]);
        if topics.len() <= self.connections {
            return vec![of_topic(&topics[connection % topics.len()])];
        }
        topics.iter().skip(connection).step_by(self.connections).map(of_topic).collect()
    }
}

/// All curves with one broker.
pub async fn measure(plan: &Plan, fresh: &mut Fresh, report: &Report) {
    let rig = one_broker(Flush::Async);
    warm_up(&rig, plan, fresh).await;
    let topics = [1, 10, 100, 1_000].map(|topics| Point {
        name: format!("{topics}"),
        topics,
        connections: 64,
        body: BODY,
    });
    curve("topics", &format!("{BODY} B, 64 connections"), topics, plan, &rig, fresh, report).await;
    let connections = [1, 16, 256, 1_000, 4_000].map(|connections| {
        let name = format!("{connections}");
        Point { name, topics: 1, connections, body: BODY }
    });
    curve("connections", &format!("{BODY} B, one topic"), connections, plan, &rig, fresh, report).await;
    let sizes = [(1, "1 B"), (256, "256 B"), (4 << 10, "4 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB")];
    let sizes = sizes.map(|(body, name)| Point { name: name.to_owned(), topics: 1, connections: 16, body });
    curve("body", "16 connections, one topic", sizes, plan, &rig, fresh, report).await;
}

async fn curve<const N: usize>(
    grows: &str,
    with: &str,
    points: [Point; N],
    plan: &Plan,
    rig: &Rig,
    fresh: &mut Fresh,
    report: &Report,
) {
    let heads = [
        grows,
        "gateway, msg/s",
        "p50, ms",
        "p99, ms",
        "CPU s per 10,000",
        "peak MiB",
        "nsqd, msg/s",
        "p50, ms",
        "p99, ms",
    ];
    let mut curve = Curve {
        title: format!("/pub as {grows} grow: {with}").replace("body grow", "the body grows"),
        heads: heads.map(str::to_owned).into(),
        points: Vec::new(),
    };
    let cluster = cluster(rig);
    for point in points {
        let ours = of_gateway(&point, plan, rig, &cluster, fresh).await;
        let theirs = of_nsqd(&point, plan, fresh).await;
        curve.points.push([vec![point.name], ours, theirs].concat());
    }
    report.curve(curve);
}

async fn new_topics(cluster: &Cluster, count: usize, fresh: &mut Fresh) -> Vec<String> {
    let topics: Vec<String> = (0..count).map(|_| fresh.topic("curve")).collect();
    let created = stream::iter(&topics).map(|topic| new_topic(cluster, topic)).buffer_unordered(8);
    created.for_each(|_| async {}).await;
    topics
}

async fn of_gateway(
    point: &Point,
    plan: &Plan,
    rig: &Rig,
    cluster: &Cluster,
    fresh: &mut Fresh,
) -> Vec<String> {
    let topics = new_topics(cluster, point.topics, fresh).await;
    let gateway = Bridge::gateway(rig);
    let requests = |connection| point.requests(gateway.address, &topics, connection);
    let first = load::run_each(gateway.address, point.connections, plan.lasting / 3, requests).await;
    let before = cpu_seconds(&gateway.process);
    let load = load::run_each(gateway.address, point.connections, plan.lasting * 2 / 3, requests).await;
    let cpu = (cpu_seconds(&gateway.process) - before) / load.acknowledged as f64 * 10_000.0;
    let peak = peak_mib(&gateway.process);
    assert_eq!(first.refused + load.refused, 0, "a figure with refusals is void");
    all_stored(cluster, &topics, first.acknowledged + load.acknowledged).await;
    let mut cells = speed(&load);
    cells.extend([figure(cpu), format!("{peak:.0}")]);
    cells
}

async fn of_nsqd(point: &Point, plan: &Plan, fresh: &mut Fresh) -> Vec<String> {
    let nsqd = fresh_nsqd();
    let topics: Vec<String> = (0..point.topics).map(|_| fresh.topic("curve")).collect();
    let requests = |connection| point.requests(nsqd.http_addr(), &topics, connection);
    let first = load::run_each(nsqd.http_addr(), point.connections, plan.lasting / 3, requests).await;
    let load = load::run_each(nsqd.http_addr(), point.connections, plan.lasting * 2 / 3, requests).await;
    assert_eq!(first.refused + load.refused, 0, "a figure with refusals is void");
    let stored: u64 = topics.iter().map(|topic| published(&nsqd, topic)).sum();
    assert_eq!(stored, first.acknowledged + load.acknowledged, "the figure of nsqd is void");
    speed(&load)
}

fn speed(load: &Load) -> Vec<String> {
    [load.rate(), load.within(0.5), load.within(0.99)].map(figure).into()
}

/// More brokers share this machine's processors, so this shows what more of them cost, not what they bring.
pub async fn brokers(plan: &Plan, fresh: &mut Fresh, report: &Report) {
    const MOST: usize = 4;
    let heap = shipped::heap_mib(MOST);
    let heads = ["brokers", "msg/s", "p50, ms", "p99, ms", "CPU s per 10,000", "peak MiB"];
    let mut curve = Curve {
        title: format!(
            "/pub as brokers grow, all on the same processors, a heap of {heap} MiB each: {BODY} B, 64 connections"
        ),
        heads: heads.map(str::to_owned).into(),
        points: Vec::new(),
    };
    for brokers in [1, 2, MOST] {
        let rig = rig(brokers, heap, Flush::Async);
        warm_up(&rig, plan, fresh).await;
        let point = Point { name: brokers.to_string(), topics: 1, connections: 64, body: BODY };
        let cells = of_gateway(&point, plan, &rig, &cluster(&rig), fresh).await;
        curve.points.push([vec![point.name], cells].concat());
    }
    report.curve(curve);
}
