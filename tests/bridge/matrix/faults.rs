//! What can go wrong, how each is done to a scene, and how it is undone.

use std::{fmt, time::Duration};

use nsqbridge_brokers::{Flow, Proxy, Server, Side};

use super::{front::Refusal, scene::Scene};
use crate::bridge::{blocking, eventually};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Process(Part, How),
    Network(Link, Trouble),
    Refusal(Refusal),
    /// Of a scene whose gateways spool: every master is killed,
    MastersAway {
        /// and one gateway's disk is full.
        and_full_disk: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One of two.
    Gateway,
    /// All there are, so that nothing but their return helps.
    Gateways,
    /// One of two.
    Transfer,
    /// One of two.
    Master,
    /// The other one.
    MasterWithSlave,
    NameServer,
    /// One of two.
    Nsqd,
    Nsqlookupd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// SIGKILL.
    Killed,
    /// SIGTERM.
    Stopped,
    /// SIGSTOP, later SIGCONT.
    Frozen,
}

/// Between which parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Gateways and relays, and one of two masters.
    Master,
    /// Relays and one of two nsqds.
    Nsqd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Connections are closed, and new ones, too.
    Cut,
    /// Each connection is cut within a request.
    CutInRequests,
    /// Each connection is cut within an answer.
    CutInAnswers,
    /// Later than anybody waits.
    AnswersLate,
    /// The other side does what it is asked, and nobody learns of it.
    AnswersLost,
    /// Open connections on which no request arrives.
    RequestsStuck,
    /// Open connections on which no answer arrives, but all of them afterwards.
    AnswersStuck,
    /// A fifth of a second each way.
    Slow,
}

/// How long a fault is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    For(Duration),
    /// Until the other parts have made up for it.
    UntilDelivered,
}

/// Counts what a gateway did not spool because its disk failed.
const FULL: &str = "nsqbridge_spool_refused_total{reason=\"disk\"}";
const SLOW: Duration = Duration::from_millis(200);
/// A gateway tries for 4 s, a relay waits 10 s for nsqd.
const LATE: Duration = Duration::from_secs(12);
/// A service manager starts what was killed again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);

const fn refusal(code: i32, remark: &'static str, stored: bool) -> Fault {
    Fault::Refusal(Refusal { code, remark, stored })
}

/// Every fault there is, each once.
pub fn all() -> Vec<Fault> {
    use Part::{Gateway, Gateways, Master, MasterWithSlave, NameServer, Nsqd, Nsqlookupd, Transfer};
    let parts = [Gateway, Gateways, Transfer, Master, MasterWithSlave, NameServer, Nsqd, Nsqlookupd];
    let hows = [How::Killed, How::Stopped, How::Frozen];
    let processes = parts.into_iter().flat_map(|part| hows.map(|how| Fault::Process(part, how)));
    let troubles = [
        Trouble::Cut,
        Trouble::CutInRequests,
        Trouble::CutInAnswers,
        Trouble::AnswersLate,
        Trouble::AnswersLost,
        Trouble::RequestsStuck,
        Trouble::AnswersStuck,
        Trouble::Slow,
    ];
    let networks = [Link::Master, Link::Nsqd]
        .into_iter()
        .flat_map(|link| troubles.map(|trouble| Fault::Network(link, trouble)));
    let refusals = [
        refusal(2, "[TIMEOUT_CLEAN_QUEUE]broker busy", false),
        refusal(14, "the broker's disk is full", false),
        refusal(16, "the broker sending message is forbidden", false),
        refusal(17, "topic not exist, apply first please!", false),
        refusal(13, "the message is illegal", false),
        refusal(1, "java.lang.RuntimeException: something", false),
        refusal(10, "FLUSH_DISK_TIMEOUT", true),
        refusal(11, "SLAVE_NOT_AVAILABLE", true),
        refusal(12, "FLUSH_SLAVE_TIMEOUT", true),
        refusal(215, "flow control", false),
        refusal(1500, "please go away", false),
    ];
    // With every gateway frozen nobody can publish: that is no fault to get over.
    let hopeless = Fault::Process(Gateways, How::Frozen);
    processes.filter(|fault| *fault != hopeless).chain(networks).chain(refusals).collect()
}

/// Those of a scene whose gateways spool, where the disk was never full before the last.
pub fn spooled() -> Vec<Fault> {
    [false, true].map(|and_full_disk| Fault::MastersAway { and_full_disk }).into()
}

impl Lasts {
    /// The shortest it lasts.
    pub fn length(&self) -> Duration {
        match self {
            Lasts::For(length) => *length,
            Lasts::UntilDelivered => Duration::from_secs(10),
        }
    }
}

impl Fault {
    /// Whether two can be there at once and leave somebody to publish to: not in one place, nor at both masters.
    pub fn goes_with(self, other: Fault) -> bool {
        let place = |fault| match fault {
            Fault::Process(Part::Gateway | Part::Gateways, _) => 0,
            Fault::Process(Part::Transfer, _) => 1,
            Fault::Process(Part::Master | Part::MasterWithSlave, _)
            | Fault::Network(Link::Master, _)
            | Fault::Refusal(_)
            | Fault::MastersAway { .. } => 2,
            Fault::Process(Part::NameServer, _) => 3,
            Fault::Process(Part::Nsqd, _) | Fault::Network(Link::Nsqd, _) => 4,
            Fault::Process(Part::Nsqlookupd, _) => 5,
        };
        place(self) != place(other)
    }

    /// Whether every outcome under it is known, so that nothing may come twice.
    pub fn is_graceful(self) -> bool {
        matches!(self, Fault::Process(Part::Gateway | Part::Gateways | Part::Transfer, How::Stopped))
    }

    pub fn lasts(self) -> Lasts {
        match self {
            Fault::Process(Part::Transfer, How::Killed | How::Frozen) => Lasts::UntilDelivered,
            // They are running again by then.
            Fault::Process(Part::Gateway | Part::Gateways | Part::Transfer, How::Killed | How::Stopped) => {
                Lasts::For(Duration::ZERO)
            }
            // Longer than the relay waits for an answer.
            Fault::Process(Part::Nsqd, How::Frozen) | Fault::Network(Link::Nsqd, _) => {
                Lasts::For(Duration::from_secs(13))
            }
            _ => Lasts::For(Duration::from_secs(8)),
        }
    }

    /// Does it.
    pub async fn begin(self, scene: &Scene) {
        match self {
            Fault::Process(part, how) => {
                for server in part.servers(scene) {
                    match how {
                        How::Killed => blocking(|| server.kill()),
                        How::Stopped => blocking(|| server.stop()),
                        How::Frozen => blocking(|| server.pause()),
                    }
                    .unwrap();
                }
                if part.is_ours() && how != How::Frozen {
                    tokio::time::sleep(RESTART_AFTER).await;
                    start_again(scene, part);
                }
            }
            Fault::Network(link, trouble) => link.each(scene, |proxy| trouble.begin(proxy)),
            Fault::Refusal(refusal) => scene.front.refuse(Some(refusal)),
            Fault::MastersAway { and_full_disk } => {
                scene.rig.brokers.iter().for_each(|broker| blocking(|| broker.kill()).unwrap());
                if and_full_disk {
                    scene.disk.as_ref().expect("a scene that spools").fill_but(0);
                }
            }
        }
    }

    /// Undoes it.
    pub async fn end(self, scene: &Scene) {
        match self {
            Fault::Process(part, How::Frozen) => {
                part.servers(scene).iter().for_each(|server| blocking(|| server.resume()).unwrap());
            }
            Fault::Process(part, _) if part.is_ours() => {}
            Fault::Process(part, _) => start_again(scene, part),
            Fault::Network(link, _) => link.each(scene, |proxy| {
                proxy.refuse(false);
                proxy.flow(Side::Client, Flow::Passes);
                proxy.flow(Side::Server, Flow::Passes);
            }),
            Fault::Refusal(_) => scene.front.refuse(None),
            Fault::MastersAway { and_full_disk } => {
                assert_eq!(scene.gateways[0].metric(FULL) > 0.0, and_full_disk, "whether the disk was full");
                if and_full_disk {
                    scene.disk.as_ref().expect("a scene that spools").free();
                }
                scene.rig.brokers.iter().for_each(|broker| blocking(|| broker.start_again()).unwrap());
            }
        }
        if let Fault::Process(Part::Nsqd, _) = self {
            let listed = async || blocking(|| scene.rig.nsqlookupd.lists(scene.rig.nsqds[1].http_addr()));
            eventually("nsqlookupd lists the nsqd again", crate::bridge::SOON, listed).await;
        }
    }
}

fn start_again(scene: &Scene, part: Part) {
    if part == Part::Nsqd {
        return scene.nsqd_again();
    }
    part.servers(scene).iter().for_each(|server| blocking(|| server.start_again()).unwrap());
}

impl Part {
    /// Whether a service manager starts it again at once.
    fn is_ours(self) -> bool {
        matches!(self, Part::Gateway | Part::Gateways | Part::Transfer)
    }

    fn servers(self, scene: &Scene) -> Vec<&Server> {
        let rig = &scene.rig;
        match self {
            Part::Gateway => vec![&scene.gateways[0].process],
            Part::Gateways => scene.gateways.iter().map(|gateway| &*gateway.process).collect(),
            Part::Transfer => vec![&scene.relays[0].process],
            Part::MasterWithSlave => vec![&rig.brokers[0]],
            Part::Master => vec![&rig.brokers[1]],
            Part::NameServer => vec![&rig.name_server],
            Part::Nsqd => vec![&rig.nsqds[1]],
            Part::Nsqlookupd => vec![&rig.nsqlookupd],
        }
    }
}

impl Trouble {
    fn begin(self, proxy: &Proxy) {
        match self {
            Trouble::Cut => {
                proxy.refuse(true);
                proxy.cut();
            }
            Trouble::CutInRequests => proxy.flow(Side::Client, Flow::CutAfter(1_000)),
            Trouble::CutInAnswers => proxy.flow(Side::Server, Flow::CutAfter(1_000)),
            Trouble::AnswersLate => proxy.flow(Side::Server, Flow::Late(LATE)),
            Trouble::AnswersLost => proxy.flow(Side::Server, Flow::Lost),
            Trouble::RequestsStuck => proxy.flow(Side::Client, Flow::Stuck),
            Trouble::AnswersStuck => proxy.flow(Side::Server, Flow::Stuck),
            Trouble::Slow => {
                proxy.flow(Side::Client, Flow::Late(SLOW));
                proxy.flow(Side::Server, Flow::Late(SLOW));
            }
        }
    }
}

impl Link {
    fn each(self, scene: &Scene, then: impl Fn(&Proxy)) {
        match self {
            Link::Master => then(&scene.link),
            Link::Nsqd => scene.nsqd_links.lock().unwrap().iter().for_each(then),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Process(part, how) => {
                let part = match part {
                    Part::Gateway => "gateway (one of two)",
                    Part::Gateways => "all gateways",
                    Part::Transfer => "transfer (one of two)",
                    Part::Master => "master (one of two)",
                    Part::MasterWithSlave => "master with slave",
                    Part::NameServer => "name server",
                    Part::Nsqd => "nsqd (one of two)",
                    Part::Nsqlookupd => "nsqlookupd",
                };
                let how = match how {
                    How::Killed => "kill -9",
                    How::Stopped => "SIGTERM",
                    How::Frozen => "SIGSTOP, SIGCONT",
                };
                write!(f, "{part}: {how}")
            }
            Fault::Network(link, trouble) => {
                let link = match link {
                    Link::Master => "to a master",
                    Link::Nsqd => "relay to an nsqd",
                };
                let trouble = match trouble {
                    Trouble::Cut => "cut, and no new connection",
                    Trouble::CutInRequests => "cut within requests",
                    Trouble::CutInAnswers => "cut within answers",
                    Trouble::AnswersLate => "answers 12 s late",
                    Trouble::AnswersLost => "answers lost",
                    Trouble::RequestsStuck => "one-way: no request arrives",
                    Trouble::AnswersStuck => "one-way: no answer arrives",
                    Trouble::Slow => "200 ms slower each way",
                };
                write!(f, "network, {link}: {trouble}")
            }
            Fault::MastersAway { and_full_disk } => {
                let disk = if *and_full_disk { "; the disk of one is full" } else { "" };
                write!(f, "all masters: kill -9, while gateways spool{disk}")
            }
            Fault::Refusal(Refusal { code, stored, .. }) => {
                write!(
                    f,
                    "a master answers sends with {code}{}",
                    if *stored { ", and stores them" } else { "" }
                )
            }
        }
    }
}
