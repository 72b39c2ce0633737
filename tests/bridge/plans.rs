//! Plans: the files in `migration-plans/`, what `scan` sees and what `plan` says of real brokers.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use bytes::Bytes;
use nsqbridge::{
    doctor,
    migration::{checks::reasons, plan},
    nsq::mpub,
    rocketmq::group::Member,
};
use nsqbridge_brokers::{Line, Nsqd, NsqdOptions, Nsqlookupd};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;

use crate::bridge::{
    Consumer, Gateway, Program, SOON, To, blocking, cluster, command, create_channel, eventually, file,
    shared, topic, transfer,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("migration-plans")
}

fn readme() -> String {
    std::fs::read_to_string(folder().join("README.md")).unwrap()
}

/// The names in back quotes in the first column of the README's tables.
fn explained(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.trim_matches('|').split('|').next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The examples, by name, the reference among them.
fn examples() -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut plans: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    plans.sort();
    plans
}

fn nsqbridge(arguments: &[&str]) -> Output {
    blocking(|| Command::new(env!("CARGO_BIN_EXE_nsqbridge")).args(arguments).env_clear().output()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What `plan` says of a plan: its exit code, and the verdict.
fn judged(text: &str) -> (Option<i32>, Value) {
    let file = file(text);
    let output = nsqbridge(&["plan", "-f", file.path().to_str().unwrap(), "-o", "json", "--sample", "1s"]);
    (output.status.code(), json(&output)["verdict"].take())
}

/// What blocks, as reason and what it is said of.
fn blocks(verdict: &Value) -> BTreeSet<(String, String)> {
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = verdict["findings"].as_array().unwrap().iter();
    let blocking = findings.filter(|finding| finding["severity"] == "BLOCK");
    blocking.map(|finding| (text(finding, "check"), text(finding, "what"))).collect()
}

fn blocks_for(verdict: &Value, reason: &str, what: &str) -> bool {
    blocks(verdict).contains(&(reason.to_owned(), what.to_owned()))
}

#[test]
fn every_plan_loads_and_the_reference_and_the_readme_name_exactly_the_fields_there_are() {
    let readme = readme();
    for path in examples() {
        plan::Plan::load(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(readme.contains(&format!("[{name}]({name})")), "the README does not tell of {name}");
    }
    let fields: BTreeSet<String> = plan::fields().into_iter().collect();
    let (told, found) = readme.split_once("## Findings").unwrap();
    assert_eq!(explained(told), fields, "the README's fields");

    // The reference with its comments taken off where they hide a field.
    let text = std::fs::read_to_string(folder().join("reference.toml")).unwrap();
    let uncommented = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(field) if field.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) => field,
        _ => line,
    });
    let whole = uncommented.collect::<Vec<_>>().join("\n");
    plan::Plan::load(file(&whole).path()).unwrap();
    let mut named = BTreeSet::new();
    name_fields(&whole.parse().unwrap(), "", &mut named);
    assert_eq!(named, fields, "the reference's fields");
    let by_default = plan::Plan::load(&folder().join("one-topic.toml")).unwrap();
    let reference = plan::Plan::load(&folder().join("reference.toml")).unwrap();
    assert_eq!((reference.gates, reference.policies), (by_default.gates, by_default.policies));
    assert_eq!(reference.topics, by_default.topics);

    let known: BTreeSet<String> =
        reasons::ALL.iter().chain(doctor::checks::ALL).map(|reason| (*reason).to_owned()).collect();
    assert_eq!(explained(found), known, "the README's reasons");
}

/// `topics.*.channels.*.group` of `[topics.a.channels.b] group = …`.
fn name_fields(table: &toml::Table, prefix: &str, names: &mut BTreeSet<String>) {
    for (name, value) in table {
        let by_name = prefix == "topics." || prefix == "topics.*.channels.";
        let name = format!("{prefix}{}", if by_name { "*" } else { name });
        match value {
            toml::Value::Table(table) => name_fields(table, &format!("{name}."), names),
            _ => drop(names.insert(name)),
        }
    }
}

#[test]
fn a_plan_that_cannot_be_is_refused_with_everything_wrong_with_it() {
    let wrong =
        file("format = 1\nrocketmq.namesrv = 'r'\n[topics.orders.channels.billing]\ngaol = 'cutover'\n");
    let output = nsqbridge(&["plan", "-f", wrong.path().to_str().unwrap()]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{errors}");
    for says in [
        "3 problems",
        "rocketmq.namesrv = \"r\": ",
        "nsq is missing",
        "topics.orders.channels.billing.gaol is no field of a plan; did you mean goal?",
    ] {
        assert!(errors.contains(says), "{says:?} is not in {errors}");
    }
    assert_eq!(nsqbridge(&["plan"]).status.code(), Some(3));

    // A plan names its own cluster, and a configuration file another; only a flag or the environment wins over the plan.
    let right = file(
        "format = 1\nrocketmq.namesrv = '127.0.0.1:1'\nnsq.nsqd_http_address = ['127.0.0.1:1']\n\
         [topics.orders.channels.billing]\n",
    );
    let config = file("[rocketmq]\nnamesrv = '127.0.0.1:2'\n");
    let arguments = ["plan", "-f", right.path().to_str().unwrap(), "-c", config.path().to_str().unwrap()];
    for (more, asked) in [(&[][..], "127.0.0.1:1"), (&["-n", "127.0.0.1:3"], "127.0.0.1:3")] {
        let output = nsqbridge(&[&arguments[..], more].concat());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "nothing can be said: {errors}");
        assert!(errors.contains(asked), "{asked} is not in {errors}");
    }
    assert_eq!(nsqbridge(&["plan", "-f", "/no/such/plan"]).status.code(), Some(3));
    assert_eq!(nsqbridge(&["scan"]).status.code(), Some(3));
    let nobody = nsqbridge(&["scan", "--nsqd-http-address", "127.0.0.1:1", "--sample", "0s"]);
    assert_eq!(nobody.status.code(), Some(1), "nothing can be said");
}

/// An NSQ of one's own: a scan of the shared one would see every other test's topics.
struct Nsq {
    lookupd: Nsqlookupd,
    nsqds: Vec<Nsqd>,
}

impl Nsq {
    async fn start() -> Self {
        let lookupd = blocking(|| Nsqlookupd::start(&[])).unwrap();
        let options = NsqdOptions { lookupds: vec![lookupd.tcp_addr()], flags: Vec::new() };
        let nsqds: Vec<Nsqd> = (0..2).map(|_| blocking(|| Nsqd::start(&options)).unwrap()).collect();
        eventually("the nsqds are registered", SOON, async || {
            nsqds.iter().all(|nsqd| blocking(|| lookupd.lists(nsqd.http_addr())))
        })
        .await;
        Self { lookupd, nsqds }
    }

    fn all(&self) -> Vec<&Nsqd> {
        self.nsqds.iter().collect()
    }

    async fn has(&self, topic: &str, channel: &str) {
        for nsqd in &self.nsqds {
            create_channel(nsqd, topic, channel).await;
        }
    }
}

async fn post(nsqd: &Nsqd, path: &str, body: impl Into<reqwest::Body>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.post(format!("http://{}{path}", nsqd.http_addr())).body(body).send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {answer:?}");
}

/// An NSQ client as go-nsq would be: says who it is, then these commands.
async fn go_nsq(nsqd: &Nsqd, commands: &[u8]) -> TcpStream {
    let identity = br#"{"client_id":"w","hostname":"old-host","user_agent":"own/1 go-nsq/1.1.0","heartbeat_interval":60000}"#;
    let mut stream = TcpStream::connect(nsqd.tcp_addr()).await.unwrap();
    stream.write_all(&[&command("  V2IDENTIFY", identity), commands].concat()).await.unwrap();
    // IDENTIFY and the first command are answered with OK.
    let mut answers = [0; 20];
    stream.read_exact(&mut answers).await.unwrap();
    assert_eq!((&answers[8..10], &answers[18..20]), (&b"OK"[..], &b"OK"[..]), "{answers:?}");
    stream
}

fn mpub(topic: &str) -> Vec<u8> {
    let batch = mpub::encode_binary([&b"past the gateway"[..]].into_iter());
    command(format!("MPUB {topic}"), batch)
}

/// Publishes to the gateway all the time.
fn traffic(gateway: &Gateway, topic: &str) -> AbortOnDropHandle<()> {
    let url = format!("http://{}/pub?topic={topic}", gateway.address);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        loop {
            // A publish that fails is the gateway's to tell of, and its tests' to judge.
            let _ = client.post(&url).body("traffic").send().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }))
}

/// Where the plans' topics of one test are.
struct Set {
    gateway: Gateway,
    _relay: Program,
    consumers: Vec<Consumer>,
}

/// Creates topics and channels everywhere, relays and consumes them, and passes a message through each.
async fn set_up(line: Line, nsq: &Nsq, channels: &[(&str, &[&str])], flags: &[&str]) -> Set {
    let rig = shared(line);
    let gateway = Gateway::start(&rig.name_server, flags).await;
    let mut consumers = Vec::new();
    for (topic, channels) in channels {
        for channel in *channels {
            if !channel.ends_with("#ephemeral") {
                nsq.has(topic, channel).await;
            }
            consumers.push(Consumer::start(&nsq.all(), topic, channel));
        }
    }
    let mut relay_flags: Vec<&str> = channels[1..].iter().flat_map(|(topic, _)| ["--topic", topic]).collect();
    relay_flags.extend(flags);
    let relay = transfer(&rig.name_server, channels[0].0, &To::Lookupd(&nsq.lookupd), &relay_flags);
    for (topic, _) in channels {
        gateway.publish(topic, "through").await;
    }
    for consumer in &consumers {
        consumer.wait_for(1).await;
    }
    Set { gateway, _relay: relay, consumers }
}

async fn every_plan_passes_where_its_topics_are_set_up(line: Line) {
    let rig = shared(line);
    let nsq = Nsq::start().await;
    let suffix = format!("-{:08x}", fastrand::u32(..));
    let own = |text: &str| {
        ["orders", "ORDERS", "payments", "service"].iter().fold(text.to_owned(), |text, name| {
            ["\"", ".", "%"].iter().fold(text, |text, after| {
                text.replace(&format!("{name}{after}"), &format!("{name}{suffix}{after}"))
            })
        })
    };
    let [orders, versioned, payments] =
        ["orders", "orders.v1", "payments.v2"].map(|name| own(&format!("{name}\"")).replace('"', ""));
    let rename = format!("{versioned}=ORDERS{suffix}");
    let channels: &[(&str, &[&str])] = &[
        (&orders, &["billing", "shipping", "archive", "dashboard#ephemeral", "tail#ephemeral"]),
        (&versioned, &["billing"]),
        (&payments, &["ledger"]),
    ];
    let _set = set_up(line, &nsq, channels, &["--rename", &rename]).await;
    let mut plans = examples();
    // The way back last: it needs a world that was cut over.
    plans.sort_by_key(|path| path.ends_with("roll-back.toml"));
    for path in plans {
        let text = own(&std::fs::read_to_string(&path).unwrap())
            .replace("rmq-1:9876", &rig.name_server.addr().to_string())
            .replace("lookup-1:4161", &nsq.lookupd.http_addr().to_string());
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "roll-back.toml" {
            let cluster = cluster(rig);
            let names = nsqbridge::mapping::Names::default();
            let parsed = orders.parse().unwrap();
            for channel in ["archive", "billing"] {
                let name = channel.parse().unwrap();
                let group = names.channel_group(&parsed, &name);
                let marks = [names.became_group(&parsed, &name, &group), names.barrier_group(&parsed, &name)];
                for group in [&[group][..], &marks].concat() {
                    cluster.create_group_at_end(&group, &orders).await.unwrap();
                }
                for nsqd in &nsq.nsqds {
                    post(nsqd, &format!("/channel/pause?topic={orders}&channel={channel}"), "").await;
                }
            }
        }
        let mut said = (None, Value::Null);
        eventually(name, SOON * 2, async || {
            said = judged(&text);
            let blocks = blocks(&said.1);
            // A day has not passed.
            let expected: BTreeSet<(String, String)> = match name {
                "phased.toml" => [("TimeInStageTooShort".to_owned(), format!("topic {orders}"))].into(),
                _ => BTreeSet::new(),
            };
            println!("{name}: {blocks:?}");
            blocks == expected
        })
        .await;
        let (code, verdict) = said;
        assert_eq!(code, Some(if name == "phased.toml" { 2 } else { 0 }), "{name}: {verdict:#}");
        let steps = verdict["steps"].as_array().unwrap();
        assert!(!steps.is_empty(), "{name}");
        if name == "roll-back.toml" {
            let commands: Vec<&str> = steps.iter().filter_map(|step| step["command"].as_str()).collect();
            assert!(commands.iter().any(|command| command.contains("--mode healthy")), "{commands:?}");
            assert!(commands.iter().any(|command| command.contains("--mode broken")), "{commands:?}");
        }
    }
}

async fn scan_sees_what_runs_and_its_draft_passes_plan(line: Line) {
    let rig = shared(line);
    let nsq = Nsq::start().await;
    let (orders, other) = (topic("scan"), topic("scan-other"));
    let set = set_up(line, &nsq, &[(&orders, &["billing"]), (&other, &["all"])], &[]).await;
    let traffic = traffic(&set.gateway, &orders);
    let producer = go_nsq(&nsq.nsqds[0], &[mpub(&orders), mpub(&other)].concat()).await;
    let subscribe = format!("SUB {orders} billing\n");
    let consumer = go_nsq(&nsq.nsqds[1], subscribe.as_bytes()).await;
    post(&nsq.nsqds[1], &format!("/pub?topic={orders}&defer=3600000"), "later").await;
    post(&nsq.nsqds[0], &format!("/channel/create?topic={other}&channel=lonely"), "").await;

    let (lookupd, name_server) = (nsq.lookupd.http_addr().to_string(), rig.name_server.addr().to_string());
    let arguments = ["scan", "--lookupd-http-address", &lookupd, "-n", &name_server, "--sample", "1s", "-o"];
    let scan = |format: &str| nsqbridge(&[&arguments[..], &[format]].concat());
    let mut seen = Value::Null;
    // Rates begin with the traffic, and the deferred message is in its channel a moment after it was published.
    eventually("all of it is seen", SOON, async || {
        seen = json(&scan("json"));
        let topic = by_name(&seen["inventory"]["topics"], "topic", &orders);
        topic["rate"].as_f64().is_some_and(|rate| rate > 1.0) && topic["channels"][0]["deferred"] == 1
    })
    .await;
    let topics = &seen["inventory"]["topics"];
    let seen_orders = by_name(topics, "topic", &orders);
    let seen_billing = by_name(&seen_orders["channels"], "channel", "billing");
    assert_eq!(seen_billing["group"], nsqbridge_group(&orders, "billing"));
    assert!(seen_billing["finish_rate"].as_f64().unwrap() > 1.0, "{seen_billing:#}");
    let agents = |clients: &Value| -> Vec<String> {
        clients
            .as_array()
            .unwrap()
            .iter()
            .map(|client| client["user_agent"].as_str().unwrap().to_owned())
            .collect()
    };
    let agent = "own/1 go-nsq/1.1.0".to_owned();
    for topic in [&orders, &other] {
        let producers = &by_name(topics, "topic", topic)["producers"];
        assert!(agents(producers).contains(&agent), "of both topics it publishes to: {producers:#}");
    }
    let producers = seen_orders["producers"].as_array().unwrap();
    let relays = producers.iter().filter(|producer| producer["is_relay"] == true);
    assert!(relays.count() > 0, "the relay is told from a producer: {producers:#?}");
    assert!(producers.iter().any(|producer| producer["hostname"] == "old-host"), "{producers:#?}");
    assert!(agents(&seen_billing["consumers"]).contains(&agent), "{seen_billing:#}");
    let reasons: BTreeSet<&str> = seen["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["check"].as_str().unwrap())
        .collect();
    for reason in [
        reasons::TCP_PRODUCER_CONNECTED,
        reasons::DEFERRED_MESSAGES_PENDING,
        reasons::CONSUMER_DROPS_AFTER_FIVE_ATTEMPTS,
    ] {
        assert!(reasons.contains(reason), "{reason} is not in {reasons:?}");
    }
    let table = String::from_utf8(scan("table").stdout).unwrap();
    assert!(table.contains("old-host") && table.contains("TcpProducerConnected"), "{table}");

    // What is in the way of a plan goes, and the draft passes.
    drop((producer, consumer, traffic));
    for nsqd in &nsq.nsqds {
        post(nsqd, &format!("/channel/empty?topic={orders}&channel=billing"), "").await;
    }
    let lonely = Consumer::start(&nsq.all(), &other, "lonely");
    let draft = String::from_utf8(scan("plan").stdout).unwrap();
    for named in [&orders, &other, &lookupd, &name_server, &"lonely".to_owned()] {
        assert!(draft.contains(named.as_str()), "{named} is not in {draft}");
    }
    eventually("the draft passes", SOON * 2, async || {
        let (code, verdict) = judged(&draft);
        println!("{code:?} {:?}", blocks(&verdict));
        code == Some(0)
    })
    .await;
    drop(lonely);
    let written = tempfile::tempdir().unwrap();
    let path = written.path().join("plan.toml");
    let write = || nsqbridge(&[&arguments[..], &["plan", "--write-plan", path.to_str().unwrap()]].concat());
    assert_eq!(write().status.code(), Some(0));
    plan::Plan::load(&path).unwrap();
    assert_eq!(write().status.code(), Some(1), "a plan is never written over");
}

fn nsqbridge_group(topic: &str, channel: &str) -> String {
    nsqbridge::mapping::Names::default().channel_group(&topic.parse().unwrap(), &channel.parse().unwrap())
}

fn by_name<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    let found = list.as_array().and_then(|list| list.iter().find(|item| item[key] == name));
    found.unwrap_or(&Value::Null)
}

async fn each_obstacle_blocks_by_its_name(line: Line) {
    let rig = shared(line);
    let nsq = Nsq::start().await;
    let (orders, other) = (topic("plan"), topic("plan-other"));
    let set = set_up(line, &nsq, &[(&orders, &["billing"]), (&other, &["all"])], &[]).await;
    let clusters = format!(
        "format = 1\nrocketmq.namesrv = '{}'\nnsq.lookupd_http_address = ['{}']\n",
        rig.name_server.addr(),
        nsq.lookupd.http_addr()
    );
    let plan = format!("{clusters}[topics.'{orders}'.channels.billing]\n");
    let (of_topic, of_channel) = (format!("topic {orders}"), format!("channel {orders}/billing"));
    let passes = async || {
        eventually("nothing blocks", SOON, async || {
            let (code, verdict) = judged(&plan);
            println!("{code:?} {:?}", blocks(&verdict));
            code == Some(0)
        })
        .await;
    };
    let blocked = async |text: &str, reason: &str, what: &str| {
        eventually(reason, SOON, async || {
            let (code, verdict) = judged(text);
            println!("{reason}: {code:?} {:?}", blocks(&verdict));
            blocks_for(&verdict, reason, what) && code == Some(2)
        })
        .await;
    };
    passes().await;

    // A message for later, which nobody can move.
    post(&nsq.nsqds[0], &format!("/pub?topic={orders}&defer=3600000"), "later").await;
    blocked(&plan, reasons::DEFERRED_MESSAGES_PENDING, &of_channel).await;
    post(&nsq.nsqds[0], &format!("/channel/empty?topic={orders}&channel=billing"), "").await;
    passes().await;

    // Somebody publishes to nsqd itself, over HTTP, where nobody is seen to be connected.
    let url = format!("http://{}/pub?topic={orders}", nsq.nsqds[0].http_addr());
    let publishing = AbortOnDropHandle::new(tokio::spawn(async move {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        loop {
            client.post(&url).body("past the gateway").send().await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }));
    blocked(&plan, reasons::BYPASS_PRODUCER_DETECTED, &of_topic).await;
    drop(publishing);
    passes().await;

    // Or over TCP, and is only connected now.
    let producer = go_nsq(&nsq.nsqds[0], &mpub(&orders)).await;
    blocked(&plan, reasons::TCP_PRODUCER_CONNECTED, &of_topic).await;
    drop(producer);
    passes().await;

    // The relay's own messages are not taken for a bypass, however many there are.
    let busy = traffic(&set.gateway, &orders);
    for _ in 0..3 {
        let (_, verdict) = judged(&plan);
        assert!(!blocks_for(&verdict, reasons::BYPASS_PRODUCER_DETECTED, &of_topic), "{verdict:#}");
    }
    drop(busy);

    // The group is in use.
    let cluster = cluster(rig);
    let name = nsqbridge::mapping::Names::default().rocketmq_topic(&orders.parse().unwrap());
    let group = nsqbridge_group(&orders, "billing");
    cluster.create_group(&group).await.unwrap();
    let consumer = crate::bridge::cluster(rig);
    let member = Member::join(consumer.clone(), &group, &name).await.unwrap();
    blocked(&plan, reasons::GROUP_HAS_CONSUMERS, &of_channel).await;
    // Its connections close as well, as those of a consumer that stops do.
    drop((member, consumer));
    passes().await;

    // A topic without a relay, and with a channel on one nsqd only.
    let lonely = topic("plan-lonely");
    create_channel(&nsq.nsqds[0], &lonely, "first").await;
    // An nsqd takes the channels nsqlookupd knows when a topic is new to it, and none of those that appear later elsewhere.
    create_channel(&nsq.nsqds[1], &lonely, "half").await;
    let half = format!("{clusters}[topics.'{lonely}'.channels.half]\n");
    blocked(&half, reasons::CHANNEL_MISSING_ON_NSQD, &format!("channel {lonely}/half")).await;
    blocked(&half, reasons::RELAY_MISSING, &format!("topic {lonely}")).await;
    let unknown = format!("{clusters}[topics.'{orders}'.channels.biling]\n");
    blocked(&unknown, reasons::CHANNEL_UNKNOWN, &format!("channel {orders}/biling")).await;

    // A name that is the cluster's, and one under which another topic's messages are kept.
    let kept = format!("{clusters}[topics.nsqbridge.channels.c]\n");
    blocked(&kept, reasons::NAME_COLLISION, "topic nsqbridge").await;
    let others = nsqbridge::mapping::Names::default().rocketmq_topic(&other.parse().unwrap());
    let taken =
        format!("{clusters}[topics.'{orders}']\nrename = '{others}'\n[topics.'{orders}'.channels.billing]\n");
    blocked(&taken, reasons::NAME_COLLISION, &of_topic).await;

    // Nothing was created by all this looking.
    let groups = cluster.groups().await.unwrap();
    assert!(!groups.iter().any(|group| group.contains(&lonely.replace('.', "|"))), "{groups:?}");
    let received: Vec<Bytes> = set.consumers[0].received();
    assert!(!received.is_empty());
}

on_both_lines!(
    every_plan_passes_where_its_topics_are_set_up,
    scan_sees_what_runs_and_its_draft_passes_plan,
    each_obstacle_blocks_by_its_name,
);
