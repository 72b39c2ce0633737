//! Starts the program under test, publishes to it, and consumes from nsqd as an NSQ client does.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use nsqbridge::{
    mapping::Names,
    rocketmq::{
        Cluster, ClusterConfig, ClusterError, Queue, QueueReader, reader::Pull, record::StoredMessage,
    },
};
use nsqbridge_brokers::{Line, NameServer, Nsqd, Nsqlookupd, Rig, RigOptions, Server, http, ports::Ports};
use tempfile::{NamedTempFile, TempDir};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// For what must happen soon; generous, because the machine may be slow.
pub const SOON: Duration = Duration::from_secs(60);

/// Runs code that blocks, such as starting a broker.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// The brokers all tests of one line share.
pub fn shared(line: Line) -> &'static Rig {
    blocking(|| nsqbridge_brokers::shared(line))
}

/// Brokers of one's own, to break.
pub fn own(line: Line, options: &RigOptions) -> Rig {
    blocking(|| Rig::start(line, &options.clone().light())).unwrap()
}

/// A client of the rig's RocketMQ.
pub fn cluster(rig: &Rig) -> Cluster {
    Cluster::new(ClusterConfig::new(vec![rig.name_server.addr().to_string()]))
}

/// A topic name no other test uses.
pub fn topic(stem: &str) -> String {
    format!("{stem}.{:08x}", fastrand::u32(..))
}

/// A file with this text, which goes with its handle.
pub fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// Waits until `condition` holds.
///
/// It is asked less often the longer it takes: to ask may be work, which the waited-for would go without.
pub async fn eventually(what: &str, within: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !condition().await {
        let waited = began.elapsed();
        assert!(waited < within, "not within {within:?}: {what}");
        let pause = waited / 20;
        tokio::time::sleep(pause.clamp(Duration::from_millis(20), Duration::from_millis(500))).await;
    }
}

/// Asks until there is an answer: brokers that are busy with other tests may take longer than a question has.
pub async fn insisting<T, F: Future<Output = Result<T, ClusterError>>>(ask: impl Fn() -> F) -> T {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(problem) if began.elapsed() < SOON => eprintln!("asked again: {problem}"),
            Err(problem) => panic!("not within {SOON:?}: {problem}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A running `nsqbridge`. When its test fails, the end of its log is shown.
pub struct Program(Server);

impl Program {
    pub fn start(title: &str, arguments: &[String]) -> Self {
        Self::in_environment(title, arguments, &[])
    }

    /// Starts it with these environment variables, too.
    pub fn in_environment(title: &str, arguments: &[String], environment: &[(&str, &str)]) -> Self {
        let run = |_: &Path| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_nsqbridge"));
            // nsqd's own port is one, and there are many gateways.
            command.args(arguments).env("NSQBRIDGE_TCP_ADDRESS", "").envs(environment.iter().copied());
            command
        };
        Self(blocking(|| Server::run(title, run)).unwrap())
    }

    /// Everything it has logged.
    pub fn logged(&self) -> String {
        self.0.log_text()
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
    }
}

impl Deref for Program {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.logged();
            let lines: Vec<&str> = log.lines().collect();
            println!("--- {}\n{}", self.0.title(), lines[lines.len().saturating_sub(200)..].join("\n"));
        }
    }
}

/// A running gateway.
pub struct Gateway {
    pub process: Program,
    pub address: SocketAddr,
    /// Of nsqd's TCP protocol.
    pub tcp_address: SocketAddr,
    pub admin: SocketAddr,
    http: reqwest::Client,
    _ports: Ports,
}

impl Gateway {
    /// Starts one on a free port and waits until it is healthy. Brokers that are busy with other tests may take longer to create a topic
    /// than a publish has by default.
    pub async fn start(name_server: &NameServer, flags: &[&str]) -> Self {
        const PATIENT: [&str; 2] = ["--publish-timeout", "9s"];
        let patient = if flags.contains(&PATIENT[0]) { &[][..] } else { &PATIENT };
        Self::start_at(name_server.addr(), &[patient, flags].concat()).await
    }

    /// The same, with a name server at this address.
    pub async fn start_at(name_server: SocketAddr, flags: &[&str]) -> Self {
        let gateway = Self::launch(&name_server.to_string(), flags).await;
        gateway.healthy().await;
        gateway
    }

    /// Starts one on a free port and waits until it listens, whatever becomes of its name server.
    pub async fn launch(name_server: &str, flags: &[&str]) -> Self {
        let ports = Ports::claim().unwrap();
        let [address, admin, tcp_address] =
            [0, 1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], ports.get(port))));
        let mut arguments: Vec<String> = [
            "gateway",
            "--namesrv",
            name_server,
            "--http-address",
            &address.to_string(),
            "--tcp-address",
            &tcp_address.to_string(),
            "--admin-address",
            &admin.to_string(),
        ]
        .map(str::to_owned)
        .into();
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        let process = Program::start("gateway", &arguments);
        let listens = async || blocking(|| http::get(admin, "/livez")).is_ok();
        eventually("the gateway listens", SOON, listens).await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { process, address, tcp_address, admin, http, _ports: ports }
    }

    /// Waits until it is healthy.
    pub async fn healthy(&self) {
        let healthy =
            async || blocking(|| http::get(self.address, "/ping")).is_ok_and(|(status, _)| status == 200);
        eventually("the gateway is healthy", SOON, healthy).await;
    }

    /// Sends a request; status and body of the answer.
    pub async fn post(
        &self,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> Result<(u16, String), reqwest::Error> {
        let url = format!("http://{}{path}", self.address);
        let answer = self.http.post(url).body(body).timeout(Duration::from_secs(20)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Sends a request with headers; status and body of the answer.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.address);
        let request = self.http.post(url).body(body.to_owned()).timeout(Duration::from_secs(20));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// What it says on this path.
    pub fn get(&self, path: &str) -> (u16, String) {
        blocking(|| http::get(self.address, path)).unwrap()
    }

    /// What it says on this path of its admin listener.
    pub fn admin(&self, path: &str) -> (u16, String) {
        blocking(|| http::get(self.admin, path)).unwrap()
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> usize {
        self.process.resident()
    }

    /// The value of one of its metrics; labels are part of the name. 0 while it has none.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.admin("/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Publishes one message, which must succeed.
    pub async fn publish(&self, topic: &str, body: impl Into<reqwest::Body>) {
        let answer = self.post(&format!("/pub?topic={topic}"), body).await.unwrap();
        assert_eq!(answer, (200, "OK".to_owned()));
    }

    /// Publishes a batch, which must succeed.
    pub async fn publish_all(&self, topic: &str, bodies: &[Bytes]) {
        let payload = nsqbridge::nsq::mpub::encode_binary(bodies.iter().map(|body| &body[..]));
        let answer = self.post(&format!("/mpub?binary=true&topic={topic}"), payload).await.unwrap();
        assert_eq!(answer, (200, "OK".to_owned()));
    }
}

/// Says that something is not tested here, which must not be where `NSQBRIDGE_NO_SKIPS` is set, unless it may be missing.
pub fn skipped(why: &str, may_be_missing: bool) {
    // Not with eprintln!, which the test runner keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    let no_skips = std::env::var_os("NSQBRIDGE_NO_SKIPS").is_some();
    assert!(may_be_missing || !no_skips, "{why}, and NSQBRIDGE_NO_SKIPS is set");
}

/// A disk of some megabytes.
pub struct SmallDisk {
    folder: TempDir,
    megabytes: usize,
}

impl SmallDisk {
    /// None where no disk can be mounted, which is said loudly.
    pub fn mount(megabytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "nsqbridge-test"])
            .arg(folder.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            skipped("a small disk cannot be mounted here; this needs root", false);
            return None;
        }
        Some(Self { folder, megabytes })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves so many bytes of it free, or none.
    pub fn fill_but(&self, bytes: usize) {
        let _ = std::fs::write(self.ballast(), vec![0; (self.megabytes << 20) - bytes]);
    }

    /// Gives it back.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Flags of a gateway that spools. The machine's disk is not what is tested.
pub fn spooling(path: &str) -> [&str; 8] {
    ["--on-unavailable", "spool", "--spool-path", path, "--spool-after", "2s", "--spool-max-disk-use", "100"]
}

/// Where a transfer daemon finds its nsqds.
pub enum To<'a> {
    Nsqds(&'a [&'a Nsqd]),
    Lookupd(&'a Nsqlookupd),
}

/// Starts a transfer daemon.
pub fn transfer(name_server: &NameServer, topic: &str, to: &To<'_>, flags: &[&str]) -> Program {
    let flags = [&["--admin-address", ""], flags].concat();
    transfer_at(name_server.addr(), topic, to, &flags)
}

/// The same, with a name server at this address, and an admin listener as the flags say.
pub fn transfer_at(name_server: SocketAddr, topic: &str, to: &To<'_>, flags: &[&str]) -> Program {
    let mut arguments: Vec<String> =
        ["transfer", "--namesrv", &name_server.to_string(), "--topic", topic].map(str::to_owned).into();
    match to {
        To::Nsqds(nsqds) => {
            for nsqd in *nsqds {
                arguments.extend(["--nsqd-http-address".to_owned(), nsqd.http_addr().to_string()]);
            }
        }
        To::Lookupd(lookupd) => {
            arguments.extend(["--lookupd-http-address".to_owned(), lookupd.http_addr().to_string()]);
        }
    }
    arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
    Program::start("transfer", &arguments)
}

/// Creates a topic in RocketMQ: a broker that is busy with other tests may take longer for it than a publish has.
pub async fn create_topic(rig: &Rig, topic: &str) {
    create_topic_of(rig, topic, 8).await;
}

/// The same, of so many queues on each broker.
pub async fn create_topic_of(rig: &Rig, topic: &str, queues: u32) {
    let stored = Names::default().rocketmq_topic(&topic.parse().unwrap());
    let cluster = cluster(rig);
    insisting(|| cluster.create_topic(&stored, queues)).await;
}

/// Creates a channel on an nsqd.
pub async fn create_channel(nsqd: &Nsqd, topic: &str, channel: &str) {
    let nsqd = nsqbridge::nsq::nsqd::Nsqd::new(nsqd.http_addr().to_string().parse().unwrap());
    let topic = topic.parse().unwrap();
    nsqd.create_topic(&topic).await.unwrap();
    nsqd.create_channel(&topic, &channel.parse().unwrap()).await.unwrap();
}

/// An NSQ consumer of one channel on several nsqds: finishes every message and keeps its body. It connects again
/// when an nsqd goes away.
pub struct Consumer {
    received: Arc<Mutex<Vec<Bytes>>>,
    _connections: JoinSet<()>,
}

/// Consumes as [`Consumer`] does, and hands each body to `take` before it is finished.
pub fn consuming(
    nsqds: &[&Nsqd],
    topic: &str,
    channel: &str,
    take: impl Fn(Bytes) + Send + Sync + 'static,
) -> JoinSet<()> {
    let take = Arc::new(take);
    let mut connections = JoinSet::new();
    for nsqd in nsqds {
        let (address, take) = (nsqd.tcp_addr(), Arc::clone(&take));
        let subscribe = format!("  V2SUB {topic} {channel}\nRDY 1000\n");
        connections.spawn(async move {
            loop {
                // An nsqd that is away is tried again; what it had not heard finished, it sends again.
                let _ = consume(address, &subscribe, &*take).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    connections
}

impl Consumer {
    pub fn start(nsqds: &[&Nsqd], topic: &str, channel: &str) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&received);
        let take = move |body| taken.lock().unwrap().push(body);
        Self { received, _connections: consuming(nsqds, topic, channel, take) }
    }

    /// Everything received so far.
    pub fn received(&self) -> Vec<Bytes> {
        self.received.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    /// Waits for this many messages and returns them, sorted.
    pub async fn wait_for(&self, count: usize) -> Vec<Bytes> {
        let mut last = (0, Instant::now());
        while self.count() < count {
            if self.count() > last.0 {
                last = (self.count(), Instant::now());
            }
            assert!(last.1.elapsed() < SOON, "{} of {count} messages, and no more are coming", last.0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut received = self.received();
        received.sort_unstable();
        received
    }
}

async fn consume(
    address: SocketAddr,
    subscribe: &str,
    take: &(dyn Fn(Bytes) + Send + Sync),
) -> std::io::Result<()> {
    const MESSAGE: u32 = 2;
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(subscribe.as_bytes()).await?;
    let mut buffer = BytesMut::new();
    loop {
        let mut commands = Vec::new();
        while let Some(size) = buffer.first_chunk::<4>().map(|size| u32::from_be_bytes(*size) as usize)
            && buffer.len() >= 4 + size
        {
            let mut frame = buffer.split_to(4 + size).freeze();
            frame.advance(4);
            if frame.get_u32() != MESSAGE {
                if &frame[..] == b"_heartbeat_" {
                    commands.extend_from_slice(b"NOP\n");
                }
                continue;
            }
            // Timestamp and attempts, then the id.
            frame.advance(10);
            let id = frame.split_to(16);
            take(frame);
            commands.extend_from_slice(b"FIN ");
            commands.extend_from_slice(&id);
            commands.push(b'\n');
        }
        stream.write_all(&commands).await?;
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// A command of nsqd's TCP protocol that has a body.
pub fn command(line: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    [line.as_ref(), b"\n", &(body.len() as u32).to_be_bytes(), body].concat()
}

/// Everything a topic holds, each queue in order; by its name in RocketMQ.
pub async fn stored(cluster: &Cluster, topic: &str) -> Vec<(Queue, StoredMessage)> {
    stored_since(cluster, topic, &mut BTreeMap::new()).await
}

/// What a topic holds from these offsets on, which move behind it.
pub async fn stored_since(
    cluster: &Cluster,
    topic: &str,
    since: &mut BTreeMap<Queue, i64>,
) -> Vec<(Queue, StoredMessage)> {
    let reader = QueueReader::new(cluster.clone(), "ledger");
    let mut stored = Vec::new();
    for (queue, bounds) in insisting(|| cluster.topic_stats(topic)).await {
        let offset = since.entry(queue.clone()).or_insert(bounds.min);
        while *offset < bounds.max {
            let pulled = insisting(|| reader.pull(&queue, *offset, 32, Duration::ZERO)).await;
            let Pull::Messages { messages, problem: None, .. } = pulled else {
                panic!("{queue}: {pulled:?}")
            };
            *offset += messages.len() as i64;
            stored.extend(messages.into_iter().map(|message| (queue.clone(), message)));
        }
    }
    stored
}

/// `n` distinct messages.
pub fn numbered(range: std::ops::Range<usize>) -> Vec<Bytes> {
    range.map(|n| Bytes::from(format!("message {n:07}"))).collect()
}
