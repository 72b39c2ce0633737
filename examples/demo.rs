//! The main job on real brokers, for people to watch: `make demo`, or `make demo ONCE=1` to end by itself.
//!
//! A name server, a broker, nsqlookupd, nsqd, a gateway and a transfer daemon are started on loopback; curl publishes;
//! nsq_tail, an ordinary NSQ consumer, shows what arrives. The exit status says whether everything did.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::IsTerminal,
    path::PathBuf,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use nsqbridge::{
    nsq::nsqd::Nsqd,
    rocketmq::{Cluster, ClusterConfig},
};
use nsqbridge_brokers::{Line, Rig, RigOptions, Server, http, nsq, ports::Ports};

const TOPIC: &str = "orders";
const CHANNEL: &str = "demo";
const SOON: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> ExitCode {
    let once = std::env::args().any(|argument| argument == "--once");
    let line = std::env::var("ROCKETMQ").ok().map_or(Ok(Line::V5), |version| version.parse());
    let result = match line {
        Ok(line) => demo(line, once).await,
        Err(error) => Err(format!("ROCKETMQ: {error}").into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nThe demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every message arrived.
async fn demo(line: Line, once: bool) -> Result<bool> {
    let started = Instant::now();
    title(&format!("1. Real servers: RocketMQ {line}, nsqlookupd, nsqd"));
    let options = RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() }.light();
    let rig = tokio::task::block_in_place(|| Rig::start(line, &options))?;
    let nsqd = Nsqd::new(rig.nsqds[0].http_addr().to_string().parse()?);
    println!("   ready in {:.1} s", started.elapsed().as_secs_f64());

    title("2. The bridge: a gateway for producers, a relay for consumers");
    let ports = Ports::claim()?;
    let [gateway_address, gateway_admin, relay_admin, gateway_tcp] =
        [0, 1, 2, 3].map(|n| format!("127.0.0.1:{}", ports.get(n)));
    let name_server = rig.name_server.addr().to_string();
    let lookupd = rig.nsqlookupd.http_addr().to_string();
    let gateway = bridge(&[
        "gateway",
        "--namesrv",
        &name_server,
        "--http-address",
        &gateway_address,
        "--tcp-address",
        &gateway_tcp,
        "--admin-address",
        &gateway_admin,
    ])?;
    let relay = bridge(&[
        "transfer",
        "--namesrv",
        &name_server,
        "--topic",
        TOPIC,
        "--lookupd-http-address",
        &lookupd,
        "--admin-address",
        &relay_admin,
    ])?;
    let healthy = || {
        gateway_address.parse().is_ok_and(|at| http::get(at, "/ping").is_ok_and(|(status, _)| status == 200))
    };
    wait("the gateway answers /ping", &gateway, healthy).await?;

    title("3. An NSQ consumer, unchanged: nsq_tail");
    nsqd.create_topic(&TOPIC.parse()?).await?;
    nsqd.create_channel(&TOPIC.parse()?, &CHANNEL.parse()?).await?;
    let tail = ["-topic", TOPIC, "-channel", CHANNEL, "-lookupd-http-address", &lookupd];
    println!("   nsq_tail {}", tail.join(" "));
    let consumer = nsq::run("nsq_tail", &tail)?;

    title("4. Producers, unchanged but for the address");
    let mut published = Vec::new();
    for body in ["order 1: two apples", "order 2: a pear", "order 3: { \"plums\": 12 }"] {
        curl(&gateway_address, "pub", body)?;
        published.push(body.to_owned());
    }
    let batch: Vec<String> = (1..=1000).map(|n| format!("batch message {n:04}")).collect();
    println!("   seq -f 'batch message %04g' 1000 |");
    curl_from("@-", &format!("http://{gateway_address}/mpub?topic={TOPIC}"), &batch.join("\n"))?;
    published.extend(batch);

    title("5. What arrived at the consumer");
    let arrived = || missing(&published, &consumer).is_empty();
    let all = wait("every message arrives", &relay, arrived).await;
    for body in received(&consumer).iter().filter(|body| body.starts_with("order")) {
        println!("   {body}");
    }
    println!(
        "   … and {} of the batch",
        received(&consumer).iter().filter(|body| body.starts_with("batch")).count()
    );

    title("6. In numbers");
    let cluster = Cluster::new(ClusterConfig::new(vec![name_server.clone()]));
    let stored: i64 = cluster.topic_stats(TOPIC).await?.values().map(|bounds| bounds.max).sum();
    let stats = nsqd.stats(Some(&TOPIC.parse()?)).await?;
    let relayed: u64 = stats.topics.iter().map(|topic| topic.message_count).sum();
    let lost = missing(&published, &consumer).len();
    row("published", published.len());
    row("stored in RocketMQ", stored);
    row("relayed into nsqd", relayed);
    row("received", received(&consumer).len());
    row("missing", lost);
    println!("   {:.0} s in all", started.elapsed().as_secs_f64());
    if !once && all.is_ok() {
        play(&rig, &gateway_address, &gateway_admin, &consumer, started).await?;
    }
    all?;
    Ok(lost == 0)
}

/// Shows the addresses, and what arrives, until Ctrl-C.
async fn play(rig: &Rig, gateway: &str, admin: &str, consumer: &Server, started: Instant) -> Result<()> {
    title("7. Now you: what you publish appears below. Ctrl-C ends everything");
    row("gateway (HTTP)", gateway);
    row("gateway's /metrics", admin);
    row("nsqd (HTTP)", rig.nsqds[0].http_addr());
    row("nsqd (TCP)", rig.nsqds[0].tcp_addr());
    row("nsqlookupd (HTTP)", rig.nsqlookupd.http_addr());
    row("name server", rig.name_server.addr());
    println!("\n   curl -d 'hello' 'http://{gateway}/pub?topic={TOPIC}'\n");
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let mut shown = received(consumer).len();
    loop {
        tokio::select! {
            ended = &mut interrupt => {
                ended?;
                println!("\n   stopped after {:.0} s", started.elapsed().as_secs_f64());
                return Ok(());
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                let received = received(consumer);
                received[shown..].iter().for_each(|body| println!("   {body}"));
                shown = received.len();
            }
        }
    }
}

/// Starts the `nsqbridge` built beside this example, and shows the command.
fn bridge(arguments: &[&str]) -> Result<Server> {
    println!("   nsqbridge {}", arguments.join(" "));
    let program: PathBuf = std::env::current_exe()?.with_file_name("../nsqbridge");
    Ok(Server::run(arguments[0], |_| {
        let mut command = Command::new(&program);
        command.args(arguments);
        command
    })?)
}

fn curl(gateway: &str, endpoint: &str, body: &str) -> Result<()> {
    curl_from(body, &format!("http://{gateway}/{endpoint}?topic={TOPIC}"), "")
}

/// Runs curl as a person would, and shows the command with its answer.
fn curl_from(data: &str, url: &str, input: &str) -> Result<()> {
    let mut child = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--data-binary", data, url])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map_err(|error| {
            format!("curl cannot be run ({error}); install it, for example apt-get install curl")
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    }
    let answer = String::from_utf8(child.wait_with_output()?.stdout)?;
    println!("   curl --data-binary '{data}' '{url}'  →  {answer}");
    if answer == "OK" { Ok(()) } else { Err(format!("the gateway answered {answer:?} instead of OK").into()) }
}

/// What the consumer has printed: one body a line.
fn received(consumer: &Server) -> Vec<String> {
    let text = std::fs::read_to_string(consumer.log()).unwrap_or_default();
    text.lines().filter(|line| !is_log(line)).map(str::to_owned).collect()
}

/// nsq_tail's own log lines, which it writes to the same place: they begin with a date.
fn is_log(line: &str) -> bool {
    line.starts_with("20") && line.as_bytes().get(4) == Some(&b'/')
}

/// What was published and has not arrived.
fn missing(published: &[String], consumer: &Server) -> Vec<String> {
    let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
    for body in received(consumer) {
        *arrived.entry(body).or_default() += 1;
    }
    let mut absent = |body: &&String| match arrived.get_mut(*body) {
        Some(left) if *left > 0 => {
            *left -= 1;
            false
        }
        _ => true,
    };
    published.iter().filter(&mut absent).cloned().collect()
}

/// Waits for a condition; a failure shows the end of the log of whoever is to blame.
async fn wait(what: &str, blame: &Server, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !tokio::task::block_in_place(&mut condition) {
        if Instant::now() >= deadline {
            return Err(format!("not within {SOON:?}: {what}\n{}", blame.log_tail()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn title(text: &str) {
    let (bold, plain) = if std::io::stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    println!("\n{bold}{text}{plain}");
}

fn row(name: &str, value: impl Display) {
    println!("   {name:<20}{value:>22}");
}
