//! Each finding, from a world in which everything is well and one thing is not.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    audit::reconcile::Weight,
    migration::{
        plan::Goal,
        scan::{Channel, Client, Topic},
        world::{Audited, Group, Relay, Stored, TopicWorld},
    },
    nsq::names::{ChannelName, TopicName},
    transfer::state::TopicReport,
};

fn topic() -> TopicName {
    "orders".parse().unwrap()
}

fn channel(name: &str) -> ChannelName {
    name.parse().unwrap()
}

/// A plan for the channels of `orders`, with `more` in it.
fn plan(more: &str) -> Plan {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "format = 1\nrocketmq.namesrv = 'r:1'\nnsq.nsqd_http_address = ['a:1', 'b:1']\n{more}\n[topics.orders.channels.billing]\n"
    );
    std::fs::write(file.path(), text).unwrap();
    Plan { file: "p.toml".into(), ..Plan::load(file.path()).unwrap() }
}

fn addresses(names: &[&str]) -> BTreeSet<crate::nsq::address::HttpAddress> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn seen_channel(name: &str) -> Channel {
    Channel {
        channel: channel(name),
        group: format!("orders%%{name}"),
        nsqds: addresses(&["a:1", "b:1"]),
        missing: BTreeSet::new(),
        paused: BTreeSet::new(),
        depth: 0,
        in_flight: 0,
        deferred: 0,
        requeued: 0,
        timed_out: 0,
        rate: Some(5.0),
        finish_rate: Some(5.0),
        consumers: vec![client("own/1")],
    }
}

fn client(user_agent: &str) -> Client {
    Client {
        nsqd: "a:1".parse().unwrap(),
        hostname: "host".to_owned(),
        remote_address: "10.0.0.1:2".to_owned(),
        client_id: "c".to_owned(),
        user_agent: user_agent.to_owned(),
        drops_after: None,
        is_relay: false,
        messages: 7,
        in_flight: 0,
    }
}

fn report() -> TopicReport {
    let json = serde_json::json!({
        "topic": "orders", "paused": false, "max_rate": 0, "rate": 5.0, "totals": [0, 0, 0, 0, 0], "nsqds": [],
        "queues": [{ "broker": "broker-a", "queue": 0, "relayed": 9, "lag": 0, "lag_seconds": 0.0 }],
    });
    serde_json::from_value(json).unwrap()
}

/// Everything is as it should be.
fn well() -> World {
    let mut world = World::default();
    world.nsq.topics.push(Topic {
        topic: topic(),
        rocketmq_topic: "orders".to_owned(),
        nsqds: addresses(&["a:1", "b:1"]),
        tombstoned: BTreeSet::new(),
        paused: BTreeSet::new(),
        depth: 0,
        messages: 100,
        arrived: Some(25),
        rate: Some(5.0),
        producers: Vec::new(),
        channels: vec![seen_channel("billing")],
    });
    let there = TopicWorld {
        stored: Ok(Some(Stored {
            queues: BTreeMap::from([("broker-a".to_owned(), 8)]),
            messages: 9,
            oldest: Some(Duration::from_secs(7_200)),
            published_to: BTreeSet::from([Some("orders".to_owned())]),
        })),
        relay: Ok(Relay {
            instances: BTreeMap::from([("relay-1".to_owned(), Ok(report()))]),
            lag: 0,
            sent: Some(30),
        }),
        groups: BTreeMap::from([("orders%%billing".to_owned(), Ok(Group::default()))]),
        taken_in: false,
        audit: None,
    };
    world.topics.insert(topic(), there);
    world
}

fn nsq(world: &mut World) -> &mut Topic {
    &mut world.nsq.topics[0]
}

fn billing(world: &mut World) -> &mut Channel {
    &mut world.nsq.topics[0].channels[0]
}

fn there(world: &mut World) -> &mut TopicWorld {
    world.topics.get_mut(&topic()).unwrap()
}

fn relay(world: &mut World) -> &mut Relay {
    there(world).relay.as_mut().unwrap()
}

fn group(world: &mut World) -> &mut Group {
    there(world).groups.get_mut("orders%%billing").unwrap().as_mut().unwrap()
}

fn cut_over(world: &mut World) {
    billing(world).paused = addresses(&["a:1", "b:1"]);
    *group(world) = Group {
        exists: true,
        members: vec!["m".to_owned()],
        committed: 8,
        queues: 8,
        lag: 4,
        is_open: true,
        has_barrier: true,
        is_completed: false,
    };
}

/// Severity and reason of everything that is not as it should be.
fn found(verdict: &Verdict) -> Vec<(Severity, &'static str)> {
    let all = verdict.findings.iter().filter(|finding| finding.severity != Severity::Ok);
    all.map(|finding| (finding.severity, finding.check)).collect()
}

/// What one change to a world where all is well leads to.
fn after(more: &str, change: impl FnOnce(&mut World)) -> Vec<(Severity, &'static str)> {
    let mut world = well();
    change(&mut world);
    found(&judge(&plan(more), &world))
}

use Severity::{Block, Info, Warn};

#[test]
fn a_channel_where_all_is_well_is_ready() {
    let verdict = judge(&plan(""), &well());
    assert_eq!((found(&verdict), verdict.blocked, verdict.phase), (Vec::new(), false, Some(1)));
    assert!(verdict.findings.iter().any(|finding| finding.check == reasons::CHANNEL_READY));
    let changes: Vec<&str> = verdict.steps.iter().map(|step| step.change.as_str()).collect();
    assert_eq!(
        changes,
        [
            "group orders%%billing is created on every broker, closed",
            "the relay rests; group orders%%billing gets its offsets in 8 queues",
            "the channel is paused on a:1, b:1",
            "group orders%%billing is opened, and the relay goes on",
        ]
    );
    assert_eq!(verdict.steps[1].pause_seconds, Some(1.0), "nothing waits; a second of quiet");
    let command = "nsqbridge cutover orders/billing -f p.toml --execute";
    assert_eq!(verdict.steps[3].command.as_deref(), Some(command));
}

#[test]
fn what_is_wrong_with_the_channel_blocks() {
    let missing = |world: &mut World| {
        billing(world).nsqds = addresses(&["a:1"]);
        billing(world).missing = addresses(&["b:1"]);
    };
    assert_eq!(after("", missing), [(Block, reasons::CHANNEL_MISSING_ON_NSQD)]);
    let tombstoned = |world: &mut World| {
        missing(world);
        nsq(world).tombstoned = addresses(&["b:1"]);
    };
    assert_eq!(after("", tombstoned), [], "nothing is relayed there");
    let unknown = |world: &mut World| billing(world).channel = channel("biling");
    assert_eq!(after("", unknown), [(Block, reasons::CHANNEL_UNKNOWN), (Info, reasons::CHANNEL_NOT_PLANNED)]);
    let paused = |world: &mut World| billing(world).paused = addresses(&["a:1"]);
    assert_eq!(after("", paused), [(Block, reasons::CHANNEL_PAUSED)]);
    assert_eq!(after("", |world| nsq(world).nsqds.clear()), [(Block, reasons::TOPIC_UNKNOWN)]);
    let topic_paused = |world: &mut World| nsq(world).paused = addresses(&["a:1"]);
    assert_eq!(after("", topic_paused), [(Block, reasons::TOPIC_PAUSED)]);
    let unseen = |world: &mut World| world.nsq.topics.clear();
    assert_eq!(after("", unseen), [(Block, reasons::TOPIC_UNKNOWN), (Block, reasons::CHANNEL_UNKNOWN)]);
}

#[test]
fn deferred_messages_block_unless_the_cutover_may_wait() {
    let deferred = |world: &mut World| billing(world).deferred = 1;
    assert_eq!(after("", deferred), [(Block, reasons::DEFERRED_MESSAGES_PENDING)]);
    assert_eq!(after("policies.deferred = 'wait'", deferred), [(Warn, reasons::DEFERRED_MESSAGES_PENDING)]);
}

#[test]
fn an_ephemeral_channel_blocks_unless_the_plan_accepts_that_there_is_no_way_back() {
    let planned = "[topics.orders.channels.'tail#ephemeral']";
    let ephemeral = |world: &mut World| {
        nsq(world).channels.push(seen_channel("tail#ephemeral"));
        let group = Ok(Group::default());
        there(world).groups.insert("orders%%tail%ephemeral".to_owned(), group);
    };
    assert_eq!(after(planned, ephemeral), [(Block, reasons::EPHEMERAL_CHANNEL)]);
    let accepted = format!("policies.ephemeral_channels = 'warn'\n{planned}");
    let mut world = well();
    ephemeral(&mut world);
    let verdict = judge(&plan(&accepted), &world);
    assert_eq!(found(&verdict), [(Warn, reasons::EPHEMERAL_CHANNEL)]);
    let [.., step] = &verdict.steps[..] else { panic!("no steps") };
    assert!(step.command.is_none() && step.change.contains("orders%%tail%ephemeral"), "{step:?}");
    assert_eq!(after(&format!("{planned}\ngoal = 'keep'"), ephemeral), []);
}

#[test]
fn the_longest_pause_is_told_from_depth_and_rate() {
    let waiting = |depth, rate| {
        move |world: &mut World| {
            billing(world).depth = depth;
            billing(world).finish_rate = rate;
        }
    };
    // 45 messages at 5 a second and a second of quiet are 10 s, which is the gate.
    assert_eq!(after("", waiting(45, Some(5.0))), []);
    assert_eq!(after("", waiting(46, Some(5.0))), [(Block, reasons::DRAIN_LONGER_THAN_PAUSE)]);
    assert_eq!(after("gates.max_pause = '11s'", waiting(46, Some(5.0))), []);
    assert_eq!(
        after("policies.quiet = '9s'", waiting(6, Some(5.0))),
        [(Block, reasons::DRAIN_LONGER_THAN_PAUSE)]
    );
    assert_eq!(
        after("", waiting(1, Some(0.0))),
        [(Block, reasons::DRAIN_LONGER_THAN_PAUSE)],
        "nothing is finished"
    );
    assert_eq!(after("", waiting(1, None)), [(Block, reasons::DRAIN_LONGER_THAN_PAUSE)], "nobody knows");
    assert_eq!(after("", waiting(0, None)), []);
}

#[test]
fn producers_that_publish_past_the_gateway_block_unless_the_plan_tolerates_them() {
    let connected = |agent: &'static str, is_relay| {
        move |world: &mut World| nsq(world).producers.push(Client { is_relay, ..client(agent) })
    };
    assert_eq!(after("", connected("go-nsq/1", false)), [(Block, reasons::TCP_PRODUCER_CONNECTED)]);
    assert_eq!(after("", connected("nsqbridge/1", true)), [], "the relay is none");
    assert_eq!(
        after("policies.bypass = 'warn'", connected("", false)),
        [(Warn, reasons::TCP_PRODUCER_CONNECTED)]
    );

    let arrived = |arrived, sent| {
        move |world: &mut World| {
            nsq(world).arrived = arrived;
            relay(world).sent = sent;
        }
    };
    assert_eq!(after("", arrived(Some(30), Some(30))), []);
    assert_eq!(after("", arrived(Some(31), Some(30))), [(Block, reasons::BYPASS_PRODUCER_DETECTED)]);
    assert_eq!(
        after("policies.bypass = 'warn'", arrived(Some(31), Some(30))),
        [(Warn, reasons::BYPASS_PRODUCER_DETECTED)]
    );
    assert_eq!(after("", arrived(None, Some(30))), [(Info, reasons::BYPASS_NOT_CHECKED)]);
    assert_eq!(after("", arrived(Some(31), None)), [(Info, reasons::BYPASS_NOT_CHECKED)]);
}

#[test]
fn a_relay_that_is_missing_silent_held_or_behind_blocks() {
    assert_eq!(after("", |world| relay(world).instances.clear()), [(Block, reasons::RELAY_MISSING)]);
    let silent = |world: &mut World| {
        relay(world).instances.insert("relay-2".to_owned(), Err("timed out".to_owned()));
    };
    assert_eq!(after("", silent), [(Block, reasons::RELAY_SILENT)]);
    let reporting = |change: fn(&mut TopicReport)| {
        move |world: &mut World| {
            for report in relay(world).instances.values_mut() {
                change(report.as_mut().unwrap());
            }
        }
    };
    let held = reporting(|report| report.queues[0].held = Some("an unreadable record".to_owned()));
    assert_eq!(after("", held), [(Block, reasons::RELAY_HELD)]);
    let waiting = reporting(|report| report.waiting = Some("paused".to_owned()));
    assert_eq!(after("", waiting), [(Block, reasons::RELAY_HELD)]);
    let late = reporting(|report| report.queues[0].lag_seconds = 11.0);
    assert_eq!(after("", late), [(Block, reasons::RELAY_LAG_ABOVE_THRESHOLD)]);
    assert_eq!(after("", |world| relay(world).lag = 1_000), []);
    assert_eq!(after("", |world| relay(world).lag = 1_001), [(Block, reasons::RELAY_LAG_ABOVE_THRESHOLD)]);
    assert_eq!(after("gates.lag_messages = 2000", |world| relay(world).lag = 1_001), []);
}

#[test]
fn a_group_that_is_in_use_blocks_and_one_with_offsets_is_told_of() {
    assert_eq!(
        after("", |world| group(world).members.push("consumer-1".to_owned())),
        [(Block, reasons::GROUP_HAS_CONSUMERS)]
    );
    let placed = |world: &mut World| {
        *group(world) = Group { exists: true, committed: 3, queues: 8, ..Group::default() };
    };
    assert_eq!(after("", placed), [(Warn, reasons::GROUP_HAS_OFFSETS)]);
}

#[test]
fn messages_of_others_in_the_topic_are_a_collision_or_told_of() {
    let holds = |published: Option<&'static str>| {
        move |world: &mut World| {
            let stored = there(world).stored.as_mut().unwrap().as_mut().unwrap();
            stored.published_to.insert(published.map(str::to_owned));
        }
    };
    assert_eq!(after("", holds(Some("payments"))), [(Block, reasons::NAME_COLLISION)]);
    assert_eq!(after("", holds(None)), [(Warn, reasons::FOREIGN_MESSAGES)]);
    assert_eq!(after("", |world| there(world).stored = Ok(None)), [(Block, reasons::TOPIC_NOT_STORED)]);
    let relays_another = |world: &mut World| {
        for report in relay(world).instances.values_mut() {
            report.as_mut().unwrap().topic = "payments".to_owned();
        }
    };
    assert_eq!(after("", relays_another), [(Block, reasons::NAME_COLLISION)]);
}

#[test]
fn gates_of_time_and_audit_are_held() {
    assert_eq!(after("gates.time_in_stage = '2h'", |_| {}), []);
    assert_eq!(after("gates.time_in_stage = '3h'", |_| {}), [(Block, reasons::TIME_IN_STAGE_TOO_SHORT)]);
    let audited = |weight| {
        move |world: &mut World| {
            there(world).audit = Some(Ok(Audited { accepted: 9, weight, worst: "lost".to_owned() }));
        }
    };
    assert_eq!(after("", audited(Some(Weight::Loss))), [(Block, reasons::AUDIT_FOUND_LOSS)]);
    assert_eq!(after("", audited(Some(Weight::Doubt))), [(Block, reasons::AUDIT_IN_DOUBT)]);
    assert_eq!(after("", audited(Some(Weight::Note))), []);
    assert_eq!(after("", audited(None)), []);
    let silent = |world: &mut World| there(world).audit = Some(Err("no answer".to_owned()));
    assert_eq!(after("", silent), [(Block, reasons::NOT_LOOKED_AT)]);
}

#[test]
fn consumers_that_give_up_and_channels_nobody_consumes_are_told_of() {
    let dropping = |world: &mut World| billing(world).consumers[0].drops_after = Some(5);
    assert_eq!(after("", dropping), [(Warn, reasons::CONSUMER_DROPS_AFTER_FIVE_ATTEMPTS)]);
    assert_eq!(
        after("", |world| billing(world).consumers.clear()),
        [(Warn, reasons::CHANNEL_WITHOUT_CONSUMERS)]
    );
}

#[test]
fn what_could_not_be_looked_at_blocks_and_is_never_taken_for_nothing_there() {
    let refused = || "refused".to_owned();
    assert_eq!(after("", |world| there(world).stored = Err(refused())), [(Block, reasons::NOT_LOOKED_AT)]);
    assert_eq!(after("", |world| there(world).relay = Err(refused())), [(Block, reasons::NOT_LOOKED_AT)]);
    assert_eq!(after("", |world| world.topics.clear()), [(Block, reasons::NOT_LOOKED_AT)]);
    let group =
        |world: &mut World| drop(there(world).groups.insert("orders%%billing".to_owned(), Err(refused())));
    assert_eq!(after("", group), [(Block, reasons::NOT_LOOKED_AT)]);
}

#[test]
fn what_the_doctor_finds_is_weighed_by_the_plan() {
    let finds = |finding: Finding| move |world: &mut World| world.doctor.push(finding);
    use crate::doctor::checks;
    let flush = || Finding::warn("broker a", checks::BROKER_FLUSH, "ASYNC_FLUSH");
    assert_eq!(after("", finds(flush())), [(Warn, reasons::TARGET_ASYNC_FLUSH)]);
    assert_eq!(
        after("policies.async_flush = 'refuse'", finds(flush())),
        [(Block, reasons::TARGET_ASYNC_FLUSH)]
    );
    let retention = Finding::warn("broker a", checks::BROKER_RETENTION, "keeps messages 5 hours");
    assert_eq!(after("", finds(retention)), [(Block, reasons::RETENTION_TOO_SHORT)]);
    let reserved = |topic: &str| Finding::fail(&format!("topic {topic}"), checks::TOPIC_RESERVED, "reserved");
    assert_eq!(after("", finds(reserved("orders"))), [(Block, reasons::NAME_COLLISION)]);
    assert_eq!(after("", finds(reserved("others"))), [], "of another topic");
    let down = Finding::fail("nsqd b:1", checks::NSQD_REACHABLE, "refused");
    assert_eq!(after("", finds(down)), [(Block, checks::NSQD_REACHABLE)]);
}

#[test]
fn a_channel_that_is_where_the_plan_wants_it_blocks_nothing_more() {
    let verdict = |more: &str, change: fn(&mut World)| {
        let mut world = well();
        change(&mut world);
        judge(&plan(more), &world)
    };
    let moved = verdict("", cut_over);
    assert_eq!(found(&moved), [(Info, reasons::ALREADY_THERE)]);
    assert_eq!((moved.phase, moved.blocked, moved.steps.len()), (None, false, 0));
    let late = verdict("", |world| {
        cut_over(world);
        relay(world).lag = 5_000;
    });
    assert_eq!(
        found(&late),
        [(Info, reasons::RELAY_LAG_ABOVE_THRESHOLD), (Info, reasons::ALREADY_THERE)],
        "the topic has nothing left to move"
    );
    let gone = verdict("", |world| {
        cut_over(world);
        nsq(world).channels.clear();
    });
    assert_eq!(found(&gone), [(Info, reasons::ALREADY_THERE)]);
    let completed = verdict("", |world| {
        cut_over(world);
        group(world).is_completed = true;
    });
    assert_eq!(found(&completed), [(Info, reasons::ALREADY_THERE)]);
    let paused = verdict("", |world| {
        cut_over(world);
        group(world).has_barrier = false;
        group(world).members.clear();
    });
    assert_eq!(
        found(&paused),
        [(Block, reasons::CHANNEL_PAUSED), (Warn, reasons::GROUP_HAS_OFFSETS)],
        "paused by somebody else, whatever offsets the group has"
    );
}

#[test]
fn an_intake_is_told_of_and_its_producers_are_no_bypass() {
    let taken_in = |world: &mut World| {
        there(world).taken_in = true;
        relay(world).sent = Some(0);
    };
    assert_eq!(after("", taken_in), [(Info, reasons::INTAKE_RUNNING)]);
    assert_eq!(after("", |world| relay(world).sent = Some(0)), [(Block, reasons::BYPASS_PRODUCER_DETECTED)]);
}

#[test]
fn a_move_that_was_interrupted_is_told_of_and_may_be_run_again() {
    let interrupted = |world: &mut World| {
        cut_over(world);
        group(world).is_open = false;
    };
    assert_eq!(after("", interrupted), [(Warn, reasons::MOVE_INTERRUPTED)]);
    let half_paused = |world: &mut World| {
        cut_over(world);
        billing(world).paused = addresses(&["a:1"]);
    };
    assert_eq!(after("", half_paused), [(Warn, reasons::MOVE_INTERRUPTED)]);
    let mut world = well();
    interrupted(&mut world);
    let path = ChannelPath { topic: topic(), channel: channel("billing") };
    assert!(against_cutover(&plan(""), &world, &path).is_empty(), "the next run finishes it");
}

#[test]
fn a_later_phase_waits_for_its_turn() {
    let more = "[topics.orders.channels.audit]\nphase = 2";
    let change = |world: &mut World| {
        let mut audit = seen_channel("audit");
        audit.deferred = 3;
        nsq(world).channels.push(audit);
        there(world).groups.insert("orders%%audit".to_owned(), Ok(Group::default()));
    };
    assert_eq!(after(more, change), [(Info, reasons::DEFERRED_MESSAGES_PENDING)]);
    let second = |world: &mut World| {
        change(world);
        cut_over(world);
    };
    assert_eq!(
        after(more, second),
        [(Block, reasons::DEFERRED_MESSAGES_PENDING), (Info, reasons::ALREADY_THERE)]
    );
    let mut world = well();
    change(&mut world);
    let verdict = judge(&plan(more), &world);
    assert_eq!(verdict.phase, Some(1));
    assert!(verdict.steps.is_sorted_by_key(|step| step.phase), "{:?}", verdict.steps);

    let of = |channel: &str| ChannelPath { topic: topic(), channel: channel.parse().unwrap() };
    let against = |world: &World, channel| {
        let findings = against_cutover(&plan(more), world, &of(channel));
        findings.into_iter().map(|finding| finding.check).collect::<Vec<_>>()
    };
    assert!(against(&world, "billing").is_empty(), "what concerns another channel keeps nobody");
    assert_eq!(
        against(&world, "audit"),
        [reasons::DEFERRED_MESSAGES_PENDING, reasons::EARLIER_PHASE_PENDING]
    );
    cut_over(&mut world);
    assert_eq!(against(&world, "audit"), [reasons::DEFERRED_MESSAGES_PENDING]);
    assert!(against(&world, "billing").is_empty(), "it is there already");
}

#[test]
fn the_way_back_is_planned_in_both_modes_while_there_is_one() {
    let judged = |goal: Goal, gone: bool| {
        let mut plan = plan("");
        plan.topics
            .values_mut()
            .flat_map(|channels| channels.values_mut())
            .for_each(|channel| channel.goal = goal);
        let mut world = well();
        cut_over(&mut world);
        if gone {
            nsq(&mut world).channels.clear();
        }
        judge(&plan, &world)
    };
    let healthy = judged(Goal::Rollback, false);
    assert_eq!(found(&healthy), []);
    assert!(healthy.findings.iter().any(|finding| finding.finding.contains("consumed 4 more messages")));
    assert_eq!(healthy.steps.len(), 3);
    assert_eq!(
        healthy.steps[2].command.as_deref(),
        Some("nsqbridge rollback orders/billing -f p.toml --mode healthy --execute")
    );
    let broken = judged(Goal::RollbackBroken, false);
    assert_eq!(found(&broken), [(Warn, reasons::ROLLBACK_DOUBLES)]);
    assert_eq!(broken.steps.len(), 2);
    let too_late = judged(Goal::Rollback, true);
    assert_eq!(found(&too_late), [(Block, reasons::ROLLBACK_IMPOSSIBLE)]);
    assert!(too_late.blocked && too_late.steps.is_empty());
}

#[test]
fn an_inventory_alone_warns_of_what_would_block_a_plan() {
    let mut world = well();
    billing(&mut world).deferred = 2;
    world.nsq.nsqlookupds.push(crate::migration::scan::NsqlookupdSeen {
        address: "lookup:1".parse().unwrap(),
        nsqds: 0,
        error: Some("refused".to_owned()),
    });
    let report = inventory(&world.nsq, &BTreeSet::from(["orders".to_owned()]));
    let found: Vec<_> = report.findings.iter().map(|finding| (finding.severity, finding.check)).collect();
    let expected = [reasons::NOT_LOOKED_AT, reasons::NAME_COLLISION, reasons::DEFERRED_MESSAGES_PENDING];
    assert_eq!(found, expected.map(|reason| (Warn, reason)));
}
