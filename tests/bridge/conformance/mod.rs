//! The gateway against a real nsqd 1.3.0: the same bytes go to both, and what comes back is compared.
//!
//! ```text
//! cases/*        what is sent, one file for each endpoint or concern
//!   request        writes requests, well-formed or not
//! conversation   sends a case over a connection of its own and notes what happens
//! comparison     what must be equal, and what may differ by nature
//! tcp            the same for nsqd's TCP protocol
//! differences    the differences that are meant, each explained in docs/differences.md
//! ```
//!
//! Equal means: status lines, every header (names as written, but for the time of day), bodies, and what becomes of the
//! connection. A case that is meant to differ says so, with a key, and fails once it no longer does.

mod cases;
mod comparison;
mod conversation;
mod differences;
mod request;
mod tcp;

use std::net::SocketAddr;

use futures_util::{StreamExt, stream};
use nsqbridge_brokers::{Line, Nsqd, NsqdOptions};
use tokio::sync::OnceCell;

use self::{
    cases::Case,
    comparison::{alike, summary},
    conversation::{Seen, play},
};
use crate::bridge::{Gateway, blocking, shared};

/// Cases of one file that run at the same time.
const AT_ONCE: usize = 8;

/// The two that are compared; nobody else talks to them.
struct Pair {
    nsqd: Nsqd,
    gateway: Gateway,
}

impl Pair {
    async fn start(nsqd_flags: &[&str], gateway_flags: &[&str]) -> Self {
        let flags = nsqd_flags.iter().map(|&flag| flag.to_owned()).collect();
        Self {
            nsqd: blocking(|| Nsqd::start(&NsqdOptions { flags, ..NsqdOptions::default() })).unwrap(),
            gateway: Gateway::start(&shared(Line::V5).name_server, gateway_flags).await,
        }
    }

    /// The pair most cases share, with the defaults of both.
    async fn of_defaults() -> &'static Self {
        static PAIR: OnceCell<Pair> = OnceCell::const_new();
        PAIR.get_or_init(async || Self::start(&[], &[]).await).await
    }
}

/// Plays all cases, several at a time, and compares.
async fn compare(pair: &Pair, cases: Vec<Case>) {
    let (nsqd, gateway) = (pair.nsqd.http_addr(), pair.gateway.address);
    let complaints: Vec<String> = stream::iter(&cases)
        .map(|case| judge(case, nsqd, gateway))
        .buffer_unordered(AT_ONCE)
        .filter_map(async |complaint| complaint)
        .collect()
        .await;
    assert_none(&complaints, cases.len());
}

fn assert_none(complaints: &[String], cases: usize) {
    assert!(complaints.is_empty(), "{} of {cases} cases:\n\n{}", complaints.len(), complaints.join("\n"));
}

/// What is wrong with one case, if anything. How a client that does not read beside sending sees the end is a matter of half a second that
/// both servers give it: on a busy machine one try in ten has to do.
async fn judge(case: &Case, nsqd: SocketAddr, gateway: SocketAddr) -> Option<String> {
    let mut complaint = judge_once(case, nsqd, gateway).await;
    for _ in 1..if case.is_blind() { 10 } else { 1 } {
        complaint = match complaint {
            None => break,
            Some(_) => judge_once(case, nsqd, gateway).await,
        };
    }
    complaint
}

async fn judge_once(case: &Case, nsqd: SocketAddr, gateway: SocketAddr) -> Option<String> {
    let (nsqd, gateway) = tokio::join!(play(case, nsqd), play(case, gateway));
    let alike = alike(case.compared, &nsqd, &gateway);
    let wrong = differences::wrong(case.differs.as_ref(), alike, || (summary(&nsqd), summary(&gateway)));
    wrong.map(|wrong| told(case, &wrong, &nsqd, &gateway))
}

fn told(case: &Case, wrong: &str, nsqd: &Seen, gateway: &Seen) -> String {
    format!("{}: {wrong}\n  nsqd    {nsqd}\n  gateway {gateway}\n", case.name)
}

macro_rules! compared {
    ($($file:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $file() {
            compare(Pair::of_defaults().await, cases::$file::cases()).await;
        })*

        /// The cases of these files.
        fn of_files() -> Vec<(&'static str, Vec<Case>)> {
            vec![$((stringify!($file), cases::$file::cases())),*]
        }
    };
}

compared!(
    basics,
    router,
    query,
    publish,
    defer,
    mpub_text,
    mpub_binary,
    bodies,
    unread,
    expect,
    heads,
    head_limits,
    topics,
    channels,
    info,
    stats,
    config,
    debug,
);

#[tokio::test(flavor = "multi_thread")]
async fn small_limits() {
    let nsqd = ["-max-msg-size=100", "-max-body-size=500", "-max-req-timeout=1s"];
    let gateway = ["--max-msg-size=100", "--max-body-size=500", "--max-req-timeout=1s", "--body-timeout=5s"];
    let pair = Pair::start(&nsqd, &gateway).await;
    tokio::join!(compare(&pair, cases::small_limits::cases()), tcp::compare(&pair, tcp::small_limits()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nsqds_tcp_protocol() {
    // Of their own: nsqd lists connected producers in the statistics that others compare.
    let pair = Pair::start(&[], &[]).await;
    tcp::compare(&pair, tcp::cases()).await;
    tcp::compare_producers(&pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_from_the_beginning() {
    let pair = Pair::start(&[], &[]).await;
    compare(&pair, cases::stats::of_nothing()).await;
    compare(&pair, cases::stats::of_two_topics()).await;
}

/// Every case there is, by where it stands.
fn all() -> Vec<(&'static str, Vec<Case>)> {
    let mut all = of_files();
    all.extend([
        ("small_limits", cases::small_limits::cases()),
        ("stats::of_nothing", cases::stats::of_nothing()),
        ("stats::of_two_topics", cases::stats::of_two_topics()),
    ]);
    all
}

#[test]
fn every_case_of_a_file_has_a_name_of_its_own() {
    let of_http = all()
        .into_iter()
        .map(|(file, cases)| (file, cases.into_iter().map(|case| case.name).collect::<Vec<String>>()));
    let of_tcp = [("tcp", tcp::cases()), ("tcp::small_limits", tcp::small_limits())];
    let of_tcp = of_tcp.map(|(file, cases)| (file, cases.into_iter().map(|case| case.name).collect()));
    for (file, mut names) in of_http.chain(of_tcp) {
        names.sort_unstable();
        let doubled = names.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(doubled, None, "{file}");
    }
}

#[test]
fn every_difference_is_explained_once_and_every_explanation_is_used() {
    let of_http = all().into_iter().flat_map(|(_, cases)| cases).map(|case| case.differs);
    let of_tcp = [tcp::cases(), tcp::small_limits()].into_iter().flatten().map(|case| case.differs);
    let mut declared: Vec<&str> = of_http.chain(of_tcp).flatten().map(|differs| differs.key).collect();
    declared.sort_unstable();
    declared.dedup();
    let mut explained = differences::explained();
    explained.sort();
    assert_eq!(declared, explained);
}
