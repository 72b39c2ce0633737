//! RocketMQ name servers and brokers, sized for a small machine.
//!
//! The defaults of RocketMQ want gigabytes of heap and disk, refuse sends after 200 ms in the queue and clean the disk
//! forcibly above 85 % use. All of that makes tests flaky, so it is set aside here; what a test is about, it sets itself
//! through [`Settings`].

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::process::Command;

use crate::error::cannot;
use crate::ports::Ports;
use crate::server::{Launch, Server, listens, local};
use crate::tools::Tool;
use crate::versions::Line;
use crate::{Result, fetch, route};

/// Needed on JDK 9 and later, where RocketMQ reaches into the JDK's internals.
const OPENINGS: [&str; 13] = [
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--add-exports",
    "java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports",
    "java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens",
    "java.base/java.nio=ALL-UNNAMED",
    "--add-opens",
    "java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens",
    "java.base/java.lang=ALL-UNNAMED",
    "--add-opens",
    "java.base/java.util=ALL-UNNAMED",
];

/// Warnings to standard output, which is the server's log. Both lines understand it; 4.9 does not start without it.
const LOGBACK: &str = r#"<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %p %c{1} - %m%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
"#;

/// What a test changes about a server beyond what this crate sets. Later values win over earlier ones and over the
/// crate's own.
///
/// In values, flags and file texts `{home}` stands for the server's folder, which is its `ROCKETMQ_HOME`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    conf: Vec<(String, String)>,
    jvm: Vec<String>,
    files: Vec<(String, String)>,
    env: Vec<(String, String)>,
}

impl Settings {
    /// No changes.
    pub fn new() -> Settings {
        Settings::default()
    }

    /// Sets a key of the server's configuration file.
    pub fn conf(mut self, key: &str, value: impl ToString) -> Settings {
        self.conf.push((key.to_owned(), value.to_string()));
        self
    }

    /// Adds a flag of the Java runtime, such as `-Dtls.server.mode=enforcing`.
    pub fn jvm(mut self, flag: &str) -> Settings {
        self.jvm.push(flag.to_owned());
        self
    }

    /// Places a file below the server's folder, such as `conf/plain_acl.yml`.
    pub fn file(mut self, path: &str, text: &str) -> Settings {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// Sets an environment variable, such as `ROCKETMQ_ZONE`.
    pub fn env(mut self, name: &str, value: &str) -> Settings {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn conf_value(&self, key: &str) -> Option<&str> {
        self.conf.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// When the broker answers a send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flush {
    /// Before the message is on the disk.
    #[default]
    Async,
    /// After the message is on the disk.
    Sync,
}

/// What kind of broker to start.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    name_servers: Vec<SocketAddr>,
    cluster: String,
    name: String,
    id: u32,
    flush: Flush,
    settings: Settings,
}

impl BrokerOptions {
    /// The master `broker-a` of cluster `nsqbridge`, registered with these name servers, flushing asynchronously.
    pub fn new(name_servers: &[SocketAddr]) -> BrokerOptions {
        BrokerOptions {
            name_servers: name_servers.to_vec(),
            cluster: "nsqbridge".to_owned(),
            name: "broker-a".to_owned(),
            id: 0,
            flush: Flush::Async,
            settings: Settings::new(),
        }
    }

    /// The cluster's name. Not a topic's name, too: the broker makes a topic of it.
    pub fn cluster(mut self, cluster: &str) -> BrokerOptions {
        self.cluster = cluster.to_owned();
        self
    }

    /// The broker's name, which a slave shares with its master. Not a topic's name, too.
    pub fn name(mut self, name: &str) -> BrokerOptions {
        self.name = name.to_owned();
        self
    }

    /// The broker's id: 0 is the master, everything else a slave.
    pub fn id(mut self, id: u32) -> BrokerOptions {
        self.id = id;
        self
    }

    /// When sends are answered.
    pub fn flush(mut self, flush: Flush) -> BrokerOptions {
        self.flush = flush;
        self
    }

    /// Anything else.
    pub fn settings(mut self, settings: Settings) -> BrokerOptions {
        self.settings = settings;
        self
    }
}

/// A RocketMQ name server.
pub struct NameServer(Server);

impl NameServer {
    /// Starts a name server.
    ///
    /// # Errors
    /// The fetch failed, or the server was not ready within 90 seconds.
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

/// Of a broker's block of ports: fast port, (one unused), listen port, HA port.
const LISTEN: u16 = 2;
const HA: u16 = 3;

impl Broker {
    /// Starts a broker and waits until those of its name servers that answer list it.
    ///
    /// # Errors
    /// The fetch failed, or the broker was not ready within 90 seconds.
    pub fn start(line: Line, options: &BrokerOptions) -> Result<Broker> {
        let title =
            if options.id == 0 { options.name.clone() } else { format!("{}-{}", options.name, options.id) };
        let server = Server::start(&title, |folder, ports| {
            let addr = local(ports.get(LISTEN));
            let route_addr = options.advertised(addr.port());
            let name_servers = options.name_servers.clone();
            let ready = move |log: &str| {
                log.contains("boot success")
                    && listens(addr)
                    && name_servers.iter().all(|ns| route::lists(*ns, &route_addr) != Some(false))
            };
            let heap = ["-Xms96m", "-Xmx512m", "-XX:MaxDirectMemorySize=1g"];
            let main = "org.apache.rocketmq.broker.BrokerStartup";
            let conf = options.conf(ports);
            Ok(Launch {
                command: prepare(line, folder, &conf, &options.settings, &heap, main)?,
                ready: Box::new(ready),
            })
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

impl BrokerOptions {
    fn advertised(&self, port: u16) -> String {
        format!("{}:{port}", self.settings.conf_value("brokerIP1").unwrap_or("127.0.0.1"))
    }

    fn conf(&self, ports: &Ports) -> Vec<(&'static str, String)> {
        let name_servers: Vec<String> = self.name_servers.iter().map(SocketAddr::to_string).collect();
        let mut conf = vec![
            ("brokerClusterName", self.cluster.clone()),
            ("brokerName", self.name.clone()),
            ("brokerId", self.id.to_string()),
            ("namesrvAddr", name_servers.join(";")),
            ("listenPort", ports.get(LISTEN).to_string()),
            ("haListenPort", ports.get(HA).to_string()),
        ];
        let fixed = [
            ("brokerRole", if self.id == 0 { "ASYNC_MASTER" } else { "SLAVE" }),
            ("flushDiskType", if self.flush == Flush::Sync { "SYNC_FLUSH" } else { "ASYNC_FLUSH" }),
            ("brokerIP1", "127.0.0.1"),
            ("brokerIP2", "127.0.0.1"),
            ("bindAddress", "127.0.0.1"),
            ("storePathRootDir", "{home}/store"),
            ("storePathCommitLog", "{home}/store/commitlog"),
            // Small files, but a commit log that does not roll over within every test.
            ("mappedFileSizeCommitLog", "67108864"),
            ("mappedFileSizeConsumeQueue", "200000"),
            ("mappedFileSizeTimerLog", "16777216"),
            ("maxHashSlotNum", "50000"),
            ("maxIndexNum", "200000"),
            // 200 ms and 1 s by default: a busy machine would answer sends with SYSTEM_BUSY.
            ("waitTimeMillsInSendQueue", "5000"),
            ("osPageCacheBusyTimeOutMills", "5000"),
            // By default unread messages are deleted from a disk that is 85 % full.
            ("diskMaxUsedSpaceRatio", "95"),
            ("cleanFileForciblyEnable", "false"),
            ("autoCreateTopicEnable", "false"),
            ("autoCreateSubscriptionGroup", "true"),
            // The shortest RocketMQ takes.
            ("registerNameServerPeriod", "10000"),
            ("pullMessageThreadPoolNums", "8"),
            ("litePullMessageThreadPoolNums", "4"),
            ("ackMessageThreadPoolNums", "4"),
            ("queryMessageThreadPoolNums", "4"),
            ("adminBrokerThreadPoolNums", "4"),
            ("clientManageThreadPoolNums", "4"),
            ("consumerManageThreadPoolNums", "4"),
            ("loadBalanceProcessorThreadPoolNums", "4"),
            ("heartbeatThreadPoolNums", "4"),
        ];
        conf.extend(fixed.map(|(key, value)| (key, value.to_owned())));
        conf
    }
}

/// Writes the server's files and says how to run it.
fn prepare(
    line: Line,
    folder: &Path,
    conf: &[(&str, String)],
    settings: &Settings,
    heap: &[&str],
    main: &str,
) -> Result<Command> {
    let home = folder.display().to_string();
    let filled = |text: &str| text.replace("{home}", &home);
    let place = |path: &str, text: &str| {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(cannot("create", parent))?;
        fs::write(&path, filled(text)).map_err(cannot("write", &path))
    };
    let own = conf.iter().map(|(key, value)| format!("{key}={value}\n"));
    let theirs = settings.conf.iter().map(|(key, value)| format!("{key}={value}\n"));
    place("server.conf", &own.chain(theirs).collect::<String>())?;
    place("conf/logback_namesrv.xml", LOGBACK)?;
    place("conf/logback_broker.xml", LOGBACK)?;
    for (path, text) in &settings.files {
        place(path, text)?;
    }

    let mut command = java(line, folder)?;
    command.args(heap).args(settings.jvm.iter().map(|flag| filled(flag)));
    command.args([main, "-c"]).arg(folder.join("server.conf"));
    command.envs(settings.env.iter().map(|(name, value)| (name, filled(value))));
    Ok(command)
}

/// Java with the jars of `line` in its class path and everything it writes in `folder`; flags, main class and
/// arguments are for the caller to add.
fn java(line: Line, folder: &Path) -> Result<Command> {
    let jars = fetch::rocketmq(line)?;
    let mut command = Command::new(Tool::Java.find()?);
    command.args(OPENINGS).arg("-XX:+UseSerialGC");
    // Logs and stores go below the home folder unless told otherwise.
    command.arg(format!("-Duser.home={}", folder.display()));
    command
        .arg(format!("-Drmq.logback.configurationFile={}", folder.join("conf/logback_broker.xml").display()));
    command.arg("-cp").arg(jars.join("*"));
    command.env("ROCKETMQ_HOME", folder).current_dir(folder);
    // Somebody's own cluster must not leak into a test.
    command.env_remove("NAMESRV_ADDR").env_remove("JAVA_TOOL_OPTIONS");
    Ok(command)
}

/// Runs another program of RocketMQ under supervision: an admin command or a benchmark.
///
/// `main` is the class, such as `org.apache.rocketmq.tools.command.MQAdminStartup` (both lines) or
/// `org.apache.rocketmq.example.benchmark.Producer` (line 5 only; it works against line 4 as well).
///
/// # Errors
/// The fetch failed, or the process could not be made.
pub fn run(line: Line, main: &str, args: &[&str]) -> Result<Server> {
    let title = main.rsplit('.').next().unwrap_or(main);
    Server::start(title, |folder, _| {
        let path = folder.join("conf/logback_broker.xml");
        fs::create_dir_all(folder.join("conf")).map_err(cannot("create", folder))?;
        fs::write(&path, LOGBACK).map_err(cannot("write", &path))?;
        let mut command = java(line, folder)?;
        command.arg("-Xmx256m").arg(main).args(args);
        Ok(Launch { command, ready: Box::new(|_| true) })
    })
}
