//! How often the hot paths allocate: gateway and relay as they ship, with an allocator that counts.
//!
//! `cargo bench --bench allocations`. Each role runs in a process of its own, which is this bench again: whenever it is sent a line, it
//! tells what it has allocated since it began. Load, broker and nsqd are other processes, so all that is counted is the role's: HTTP,
//! metrics, audit and deadlines are in it.

#![allow(missing_docs, clippy::unwrap_used, reason = "a measurement, not an interface")]

#[path = "compare/load.rs"]
#[allow(dead_code, reason = "some of it is for comparisons")]
mod load;

use std::{
    alloc::System,
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use nsqbridge::{config, nsq::mpub, run};
use nsqbridge_brokers::{Line, Rig, RigOptions, http, ports::Ports};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The first argument of a process that is a role.
const ROLE: &str = "role";
const BODY: usize = 256;
/// Messages of one `/mpub`.
const BATCH: usize = 100;
const LASTING: Duration = Duration::from_secs(2);
/// Messages before the relay, at least.
const BACKLOG: u64 = 200_000;

fn main() {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if arguments.get(1).is_some_and(|first| first == ROLE) {
        std::thread::spawn(tell);
        let invocation = config::parse(arguments.into_iter().skip(1)).unwrap();
        runtime.block_on(run::run(invocation.work)).unwrap();
    } else {
        runtime.block_on(measure());
    }
}

/// Answers each line with the allocations so far, those that grew in place among them, and their bytes.
fn tell() {
    for _ in std::io::stdin().lines() {
        let stats = ALLOCATOR.stats();
        println!("{} {}", stats.allocations + stats.reallocations, stats.bytes_allocated);
    }
}

async fn measure() {
    let rig = Rig::start(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() }).unwrap();
    let name_server = rig.name_server.addr().to_string();
    let ports = Ports::claim().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], ports.get(0)));
    let mut gateway = Role::start(&[
        "gateway",
        "--namesrv",
        &name_server,
        "--http-address",
        &address.to_string(),
        "--tcp-address",
        "",
    ]);
    eventually(|| http::get(address, "/ping").is_ok_and(|(status, _)| status == 200));

    println!("{:<44} {:>12} {:>12}", "for each message", "allocations", "bytes");
    let single = load::request(address, "/pub?topic=single", &[b'x'; BODY]);
    let bodies = [[b'x'; BODY]; BATCH];
    let many = mpub::encode_binary(bodies.iter().map(|body| &body[..]));
    let many = load::request(address, "/mpub?binary=true&topic=many", &many);
    for (what, connections, request, messages) in [
        ("/pub, 1 connection", 1, &single, 1),
        ("/pub, 64 connections sharing batches", 64, &single, 1),
        ("/mpub of 100, 4 connections", 4, &many, BATCH as u64),
    ] {
        load::run(address, connections, LASTING / 4, request).await;
        let before = gateway.allocated();
        let load = load::run(address, connections, LASTING, request).await;
        show(what, before, gateway.allocated(), load.acknowledged * messages);
    }

    let mut backlog = 0;
    let fill = load::request(
        address,
        "/mpub?binary=true&topic=relayed",
        &mpub::encode_binary(bodies.iter().map(|body| &body[..])),
    );
    while backlog < BACKLOG {
        backlog += load::run(address, 4, LASTING / 8, &fill).await.acknowledged * BATCH as u64;
    }
    let nsqd = rig.nsqds[0].http_addr();
    let mut relay = Role::start(&[
        "transfer",
        "--namesrv",
        &name_server,
        "--topic",
        "relayed",
        "--nsqd-http-address",
        &nsqd.to_string(),
    ]);
    // What it takes to begin is no part of it.
    eventually(|| relayed(nsqd) > 0);
    let (before, begun) = (relay.allocated(), relayed(nsqd));
    eventually(|| relayed(nsqd) >= backlog);
    show("relayed", before, relay.allocated(), backlog - begun);
}

fn show(what: &str, before: [u64; 2], after: [u64; 2], messages: u64) {
    let each = |n: usize| (after[n] - before[n]) as f64 / messages as f64;
    println!("{what:<44} {:>12.2} {:>12.0}", each(0), each(1));
}

fn eventually(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Messages the nsqd has been given.
fn relayed(nsqd: SocketAddr) -> u64 {
    let Ok((200, body)) = http::get(nsqd, "/stats?format=json&include_clients=false&include_mem=false")
    else {
        return 0;
    };
    let stats: serde_json::Value = serde_json::from_str(&body).unwrap();
    stats["topics"][0]["message_count"].as_u64().unwrap_or(0)
}

/// A role in a process of its own; ended when dropped.
struct Role {
    process: Child,
    asking: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Role {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg(ROLE)
            .args(arguments)
            .args(["--admin-address", "", "--log-level", "off"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (asking, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        Self { process, asking, answers: BufReader::new(answers) }
    }

    /// Allocations and their bytes since it began.
    fn allocated(&mut self) -> [u64; 2] {
        writeln!(self.asking).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let mut figures = line.split_whitespace().map(|figure| figure.parse().unwrap());
        [figures.next().unwrap(), figures.next().unwrap()]
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
