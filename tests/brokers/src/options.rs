//! What a test may choose about a RocketMQ server, and what this crate chooses for it.
//!
//! The defaults of RocketMQ want gigabytes of heap and disk, refuse sends after 200 ms in the queue and clean the disk
//! forcibly above 85 % use. All of that makes tests flaky, so it is set aside here; what a test is about, it sets itself
//! through [`Settings`].

use std::net::SocketAddr;

use crate::ports::Ports;

/// Of a broker's block of ports: fast port, (one unused), listen port, HA port.
pub(crate) const LISTEN: u16 = 2;
pub(crate) const HA: u16 = 3;

/// What a test changes about a server beyond what this crate sets. Later values win over earlier ones and over the
/// crate's own.
///
/// In values, flags and file texts `{home}` stands for the server's folder, which is its `ROCKETMQ_HOME`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub(crate) conf: Vec<(String, String)>,
    pub(crate) jvm: Vec<String>,
    pub(crate) files: Vec<(String, String)>,
    pub(crate) env: Vec<(String, String)>,
}

impl Settings {
    /// No changes.
    pub fn new() -> Settings {
        Settings::default()
    }

    /// Takes a third of the processor to boot, next to nothing while idle, and serves half as fast: right for tests, wrong
    /// for benches.
    pub fn light() -> Settings {
        Settings::new()
            .jvm("-XX:TieredStopAtLevel=1")
            // Line 5 compares the 37 MiB of its timer wheel each second: a third of a processor, for nothing.
            .conf("timerFlushIntervalMs", 10_000)
            // And until this time has passed after its start, it turns in a loop.
            .conf("transactionMetricFlushInterval", 200)
    }

    /// These changes, and then further ones.
    pub fn and(mut self, further: &Settings) -> Settings {
        let Settings { conf, jvm, files, env } = further.clone();
        self.conf.extend(conf);
        self.jvm.extend(jvm);
        self.files.extend(files);
        self.env.extend(env);
        self
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
    pub(crate) name_servers: Vec<SocketAddr>,
    cluster: String,
    pub(crate) name: String,
    pub(crate) id: u32,
    flush: Flush,
    pub(crate) settings: Settings,
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

impl BrokerOptions {
    /// What the broker tells name servers to send clients to.
    pub(crate) fn advertised(&self, port: u16) -> String {
        format!("{}:{port}", self.settings.conf_value("brokerIP1").unwrap_or("127.0.0.1"))
    }

    /// The configuration without the test's own changes.
    pub(crate) fn conf(&self, ports: &Ports) -> Vec<(&'static str, String)> {
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
