//! The kill matrix: everything is killed, stopped, frozen, cut off and made to lie under load, and no acknowledged message is lost.
//!
//! ```text
//!   load ──▶ scene (the bridge and its brokers) ──▶ consumers         faults do something to it, and undo it
//!     └────────▶ ledger ◀── reader of RocketMQ, consumers             witnesses: what the parts admit
//!                  └──▶ a row of the table for each fault
//! ```
//!
//! `make test` runs the faults that teach most; `make soak` all of them, on both lines, with both ways to flush, then random
//! pairs. The environment chooses:
//!
//! - `NSQBRIDGE_SOAK=all`, or the flushes to run, such as `ASYNC_FLUSH`;
//! - `NSQBRIDGE_SOAK_PART=2/3`: the second third of the faults;
//! - `NSQBRIDGE_SOAK_FAULTS`: only faults whose names hold this text;
//! - `NSQBRIDGE_SOAK_MINUTES`: how long random pairs go on;
//! - `NSQBRIDGE_SEED`: the seed of a former run; without it `make soak` draws one, and `make test` always has the same pair.

mod faults;
mod front;
pub mod ledger;
pub mod load;
mod producer;
mod scene;
mod table;
mod witnesses;

use std::{
    env,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use nsqbridge_brokers::{Flush, Line};
use tokio::sync::Mutex;

use self::{
    faults::{Fault, How, Lasts, Part},
    ledger::Account,
    scene::Scene,
    table::Row,
    witnesses::Told,
};
use crate::bridge::SmallDisk;

/// Publishing goes on within this, whatever happens.
const LONGEST_STALL: Duration = Duration::from_secs(10);
/// Room for what is spooled in a cell.
const DISK_MEGABYTES: usize = 16;
/// What `make test` finds is the doing of what was changed: new pairs are looked for by `make soak`.
const SEED_OF_SHARE: u64 = 20;
/// What a producer waits for is to be the bridge's doing, and not that of another scene on the same processors.
static ONE_SCENE: Mutex<()> = Mutex::const_new(());

/// Which cells a run has.
struct Plan {
    flushes: Vec<Flush>,
    faults: Vec<Fault>,
    /// In a scene of their own, whose gateways spool.
    spooled: Vec<Fault>,
    pairs: usize,
    /// Pairs go on for so long.
    pairs_for: Duration,
    writes_table: bool,
}

fn setting(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn plan(line: Line) -> Plan {
    let Some(soak) = setting("NSQBRIDGE_SOAK") else { return share(line) };
    let flushes =
        [Flush::Async, Flush::Sync].into_iter().filter(|flush| soak == "all" || soak == name(*flush));
    let (mut faults, mut spooled) = (faults::all(), faults::spooled());
    if let Some(part) = setting("NSQBRIDGE_SOAK_PART") {
        let (nth, of) = part.split_once('/').unwrap();
        let (nth, of): (usize, usize) = (nth.parse().unwrap(), of.parse().unwrap());
        let size = faults.len().div_ceil(of);
        faults = faults.chunks(size).nth(nth - 1).unwrap().to_vec();
        spooled.truncate(if nth == of { spooled.len() } else { 0 });
    }
    if let Some(text) = setting("NSQBRIDGE_SOAK_FAULTS") {
        for some in [&mut faults, &mut spooled] {
            some.retain(|fault| fault.to_string().contains(&text));
        }
        assert!(faults.len() + spooled.len() > 0, "no fault is called {text:?}");
    }
    let minutes = setting("NSQBRIDGE_SOAK_MINUTES").map_or(0, |minutes| minutes.parse().unwrap());
    Plan {
        flushes: flushes.collect(),
        faults,
        spooled,
        pairs: 0,
        pairs_for: Duration::from_secs(60 * minutes),
        writes_table: true,
    }
}

/// What `make test` runs: on each line what differs there, and what only one of them need show.
fn share(line: Line) -> Plan {
    let refused =
        |code: i32| move |fault: &Fault| matches!(fault, Fault::Refusal(refusal) if refusal.code == code);
    let of_all = |wanted: &[&dyn Fn(&Fault) -> bool]| {
        let all = faults::all();
        wanted.iter().filter_map(|wanted| all.iter().copied().find(|fault| wanted(fault))).collect::<Vec<_>>()
    };
    let process = |part, how| move |fault: &Fault| *fault == Fault::Process(part, how);
    let network = |link, trouble| move |fault: &Fault| *fault == Fault::Network(link, trouble);
    use faults::{Link, Trouble};
    let (flush, faults) = match line {
        Line::V5 => (
            Flush::Async,
            of_all(&[
                &process(Part::Gateway, How::Stopped),
                &process(Part::Gateways, How::Killed),
                &process(Part::Transfer, How::Stopped),
                &process(Part::Transfer, How::Killed),
                &process(Part::Master, How::Frozen),
                &process(Part::Master, How::Stopped),
                &process(Part::MasterWithSlave, How::Killed),
                &process(Part::NameServer, How::Stopped),
                &process(Part::Nsqd, How::Killed),
                &network(Link::Master, Trouble::AnswersLost),
                &network(Link::Master, Trouble::CutInAnswers),
                &network(Link::Nsqd, Trouble::AnswersLost),
                &refused(2),
                &refused(10),
            ]),
        ),
        Line::V4 => (
            Flush::Sync,
            of_all(&[
                &process(Part::Master, How::Stopped),
                &process(Part::Master, How::Frozen),
                &process(Part::Nsqd, How::Stopped),
                &process(Part::NameServer, How::Stopped),
                &refused(11),
            ]),
        ),
    };
    Plan {
        flushes: vec![flush],
        faults,
        spooled: Vec::new(),
        pairs: 1,
        pairs_for: Duration::ZERO,
        writes_table: false,
    }
}

fn name(flush: Flush) -> &'static str {
    match flush {
        Flush::Async => "ASYNC_FLUSH",
        Flush::Sync => "SYNC_FLUSH",
    }
}

async fn no_acknowledged_message_is_lost_whatever_fails(line: Line) {
    let drawn = || if setting("NSQBRIDGE_SOAK").is_some() { fastrand::u64(..) } else { SEED_OF_SHARE };
    let seed = setting("NSQBRIDGE_SEED").map_or_else(drawn, |seed| seed.parse().unwrap());
    println!("RocketMQ {line}; NSQBRIDGE_SEED={seed} repeats this run");
    let plan = plan(line);
    let _alone = ONE_SCENE.lock().await;
    let mut broken = Vec::new();
    for &flush in &plan.flushes {
        if !plan.faults.is_empty() || !plan.pairs_for.is_zero() {
            let mut run = Run::start(line, flush, seed, plan.writes_table, None).await;
            for &fault in &plan.faults {
                run.cell(&[fault]).await;
            }
            let mut random = fastrand::Rng::with_seed(seed);
            let started = Instant::now();
            for nth in 0.. {
                if nth >= plan.pairs && started.elapsed() >= plan.pairs_for {
                    break;
                }
                run.cell(&pair(&mut random)).await;
            }
            broken.extend(run.end());
        }
        if !plan.spooled.is_empty()
            && let Some(disk) = SmallDisk::mount(DISK_MEGABYTES)
        {
            let mut run = Run::start(line, flush, seed, plan.writes_table, Some(disk)).await;
            for &fault in &plan.spooled {
                run.cell(&[fault]).await;
            }
            broken.extend(run.end());
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

on_both_lines!(no_acknowledged_message_is_lost_whatever_fails);

/// Two faults that leave somebody to publish to.
fn pair(random: &mut fastrand::Rng) -> [Fault; 2] {
    let all = faults::all();
    loop {
        let pair = [all[random.usize(..all.len())], all[random.usize(..all.len())]];
        if pair[0].goes_with(pair[1]) {
            return pair;
        }
    }
}

/// The cells of one scene, one after the other.
struct Run {
    scene: Scene,
    seed: u64,
    rows: Vec<Row>,
    told: Told,
    /// What does not hold for all cells together.
    failures: Vec<String>,
    writes_table: bool,
}

impl Run {
    async fn start(line: Line, flush: Flush, seed: u64, writes_table: bool, disk: Option<SmallDisk>) -> Self {
        let mut scene = Scene::set(line, flush, seed, disk).await;
        let told = scene.settle().await;
        Self { scene, seed, rows: Vec::new(), told, failures: Vec::new(), writes_table }
    }

    /// Does something to the scene under load, undoes it, waits until all is quiet, and takes the account of it.
    async fn cell(&mut self, faults: &[Fault]) {
        let scene = &mut self.scene;
        let fault = faults.iter().map(Fault::to_string).collect::<Vec<_>>().join(" + ");
        println!("--- {} {fault}", table::now());
        let from = scene.ledger.next();
        let before = scene.load.unsure.load(Ordering::Relaxed);
        scene.load.go_on();
        scene.acknowledges(from, 50, &format!("before {fault}")).await;

        let began = Instant::now();
        for fault in faults {
            fault.begin(scene).await;
        }
        scene.acknowledges(scene.ledger.next(), 50, &format!("during {fault}")).await;
        let mut recovery = None;
        match (faults, faults.iter().map(|fault| fault.lasts()).max_by_key(Lasts::length)) {
            ([_], Some(Lasts::UntilDelivered)) => {
                scene.delivers(from..scene.ledger.next(), &format!("during {fault}")).await;
                recovery = Some(began.elapsed());
            }
            (_, lasts) => tokio::time::sleep(lasts.map_or(Duration::ZERO, |lasts| lasts.length())).await,
        }
        for fault in faults.iter().rev() {
            fault.end(scene).await;
        }
        let lasted = began.elapsed();
        let until = scene.ledger.next();
        let delivered = scene.delivers(from..until, &format!("after {fault}")).await;
        scene.acknowledges(until, 50, &format!("after {fault}")).await;
        let unsure = scene.load.unsure.load(Ordering::Relaxed) - before;
        let told = scene.settle().await;
        let after = scene.ledger.next();
        let account = scene.ledger.account(from..after, &told.takeovers);
        let mut failures = broken(&account, &told, unsure);
        if faults.iter().all(|fault| fault.is_graceful()) && account.doubled() > 0 {
            failures.push(format!("{} doubled without an unknown outcome", account.doubled()));
        }
        if account.stall > LONGEST_STALL {
            failures.push(format!("a producer waited {:?}", account.stall));
        }
        let row = Row {
            fault,
            brokers: format!("{} {}", scene.line, name(scene.flush)),
            at: table::now(),
            seed: self.seed,
            acknowledged: account.acknowledged,
            lost: account.lost.len(),
            doubled: account.doubled(),
            causes: causes(&account, &told, unsure),
            lasted: lasted.as_secs_f64(),
            stall: account.stall.as_secs_f64(),
            delivery: account.delivery.as_secs_f64(),
            recovery: recovery.unwrap_or(delivered).as_secs_f64(),
            failures,
        };
        print!("{}", row.text());
        if self.writes_table {
            // At once: a run that fails later has seen this all the same.
            table::keep(std::slice::from_ref(&row));
        }
        self.told.add(&told);
        self.rows.push(row);
    }

    /// All cells together: what came late counts here. Prints the table; what was promised and did not hold.
    fn end(mut self) -> Vec<String> {
        let ledger = &self.scene.ledger;
        let account = ledger.account(0..ledger.next(), &self.told.takeovers);
        let unsure = self.scene.load.unsure.load(Ordering::Relaxed);
        self.failures = broken(&account, &self.told, unsure);
        let damaged = ledger.damaged();
        if !damaged.is_empty() {
            self.failures.push(format!("bodies nobody published: {damaged:?}"));
        }
        println!(
            "{} acknowledged, {} lost, {} doubled: {}",
            account.acknowledged,
            account.lost.len(),
            account.doubled(),
            causes(&account, &self.told, unsure)
        );
        table::print(&self.rows);
        let of_row = |row: &Row| {
            row.failures.iter().map(|failure| format!("{}: {failure}", row.fault)).collect::<Vec<_>>()
        };
        self.failures.extend(self.rows.iter().flat_map(of_row));
        self.failures
    }
}

/// What was promised and does not hold.
fn broken(account: &Account, told: &Told, unsure: usize) -> Vec<String> {
    let mut broken = Vec::new();
    if !account.lost.is_empty() {
        broken.push(format!("lost: {:?}", account.lost));
    }
    let bounds = [
        ("published again", account.published_again, unsure),
        ("stored again", account.stored_again, told.gateway_doubts),
        ("relayed again", account.relayed_again, told.relayed_again()),
    ];
    for (what, count, most) in bounds {
        if count > most {
            broken.push(format!("{count} {what}, and the parts admit {most}"));
        }
    }
    broken
}

fn causes(account: &Account, told: &Told, unsure: usize) -> String {
    let causes = [
        ("producer", account.published_again, Some(unsure)),
        ("gateway", account.stored_again, Some(told.gateway_doubts)),
        ("rewound", account.rewound, None),
        ("relay", account.relayed_again, Some(told.relayed_again())),
    ];
    let text = |(cause, count, of): (&str, usize, Option<usize>)| match of {
        _ if count == 0 => None,
        Some(of) => Some(format!("{cause} {count} of {of}")),
        None => Some(format!("{cause} {count}")),
    };
    causes.into_iter().filter_map(text).collect::<Vec<_>>().join(", ")
}
