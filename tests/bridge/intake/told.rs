//! What an intake says of itself, and how it begins and ends beside others.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use nsqbridge_brokers::{Line, RigOptions, http, ports::Ports};

use super::{Intake, Producer, channel, count, ended, is_finished};
use crate::{
    bridge::{
        Program, SOON, To, blocking, create_channel, eventually, file, numbered, own, shared, topic, transfer,
    },
    transfer::run,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_intake_without_a_broker_is_not_ready_and_status_shows_one_that_works() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("told");
    let intake = Intake::start(&rig, &topic, &[nsqd]).await;
    let mut producer = Producer::connect(nsqd).await;
    producer.publish(&topic, &numbered(0..10)).await;
    eventually("all is taken in", SOON, async || {
        count(&rig, &topic).await == 10 && is_finished(nsqd, &topic)
    })
    .await;
    let address = nsqd.http_addr().to_string();
    let status = run(&rig, &["status", &topic, "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let inlet = &status["intakes"][0]["instances"][0]["report"]["nsqds"][0];
    assert_eq!(
        (&inlet["nsqd"], &inlet["stored"], &inlet["waiting"]),
        (&address.into(), &10.into(), &serde_json::Value::Null),
        "{status}"
    );
    let table = String::from_utf8(run(&rig, &["status", &topic]).stdout).unwrap();
    assert!(table.lines().any(|line| line.ends_with("10      taking in")), "{table}");

    blocking(|| rig.brokers[0].kill()).unwrap();
    // With nothing to store, too.
    eventually("it is not ready", SOON, async || !intake.is_ready()).await;
    blocking(|| rig.brokers[0].start_again()).unwrap();
    eventually("it is ready again", 2 * SOON, async || intake.is_ready()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intake_is_not_ended_while_another_runs_or_a_producer_is_connected() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 2, ..RigOptions::default() });
    let [one, other] = [&rig.nsqds[0], &rig.nsqds[1]];
    let topic = topic("ended");
    let [here, there] =
        [Intake::start(&rig, &topic, &[one]).await, Intake::start(&rig, &topic, &[other]).await];
    let mut producer = Producer::connect(one).await;
    producer.publish(&topic, &numbered(0..10)).await;
    eventually("all is taken in", SOON, async || count(&rig, &topic).await == 10 && is_finished(one, &topic))
        .await;
    let refused = async |nsqds: &[&nsqbridge_brokers::Nsqd], because: &str| {
        let retired = ended(&rig, &topic, nsqds, &["--retire"]).await;
        let said = String::from_utf8_lossy(&retired.stderr).into_owned();
        assert_eq!((retired.status.code(), said.contains(because)), (Some(2), true), "{said}");
        assert!(!channel(one, &topic).is_null(), "nothing is deleted");
    };
    blocking(|| here.process.signal("TERM")).unwrap();
    assert_eq!(blocking(|| here.process.wait(SOON)).unwrap(), 0);
    refused(&[one], "perhaps from another nsqd").await;
    blocking(|| there.process.signal("TERM")).unwrap();
    assert_eq!(blocking(|| there.process.wait(SOON)).unwrap(), 0);
    refused(&[one, other], "however seldom").await;
    drop(producer);
    eventually("nobody is left", SOON, async || {
        ended(&rig, &topic, &[one, other], &["--retire"]).await.status.code() == Some(0)
    })
    .await;
    assert!(channel(one, &topic).is_null() && channel(other, &topic).is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_other_roles_an_intake_is_held_and_ends_nobody() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let nsqd = &rig.nsqds[0];
    let topic = topic("beside");
    create_channel(nsqd, &topic, "ch").await;
    let gateway = crate::bridge::Gateway::start(&rig.name_server, &[]).await;
    gateway.publish(&topic, "0").await;
    let _relay = transfer(&rig.name_server, &topic, &To::Nsqds(&[nsqd]), &[]);
    crate::migration::relayed(&rig, &topic).await;
    assert_eq!(ended(&rig, &topic, &[nsqd], &[]).await.status.code(), Some(2), "alone it ends");

    let ports = Ports::claim().unwrap();
    let [http_address, admin] = [0, 1].map(|port| SocketAddr::from(([127, 0, 0, 1], ports.get(port))));
    let text = format!(
        "admin.address = '{admin}'\nrocketmq.namesrv = ['{}']\ngateway.http_address = '{http_address}'\n\
         [intake]\ntopic = ['{topic}']\nnsqd_http_address = ['{}']\n",
        rig.name_server.addr(),
        nsqd.http_addr()
    );
    let file = file(&text);
    let both = Program::start("both", &["run", "-c", file.path().to_str().unwrap()].map(str::to_owned));
    eventually("it says what holds it", SOON, async || {
        blocking(|| http::get(admin, "/readyz"))
            .is_ok_and(|(status, text)| status == 503 && text.contains("--leave-out"))
    })
    .await;
    eventually("the gateway works", SOON, async || {
        blocking(|| http::get(http_address, "/ping")).is_ok_and(|(status, _)| status == 200)
    })
    .await;
    blocking(|| both.signal("TERM")).unwrap();
    assert_eq!(blocking(|| both.wait(SOON)).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intake_that_waits_for_an_answer_stops_when_it_is_told_to() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nsqd = silent.local_addr().unwrap().to_string();
    let name_server = shared(Line::V5).name_server.addr().to_string();
    let topics = ["one", "two", "three", "four"].map(topic).join(",");
    let arguments = ["intake", "--namesrv", &name_server, "--topic", &topics, "--nsqd-http-address", &nsqd]
        .into_iter()
        .chain(["--admin-address", ""]);
    let intake = Program::start("intake", &arguments.map(str::to_owned).collect::<Vec<_>>());
    // Signals are listened for before anything is asked.
    let _asked = tokio::time::timeout(SOON, silent.accept()).await.unwrap().unwrap();
    let told = Instant::now();
    blocking(|| intake.signal("TERM")).unwrap();
    assert_eq!(blocking(|| intake.wait(SOON)).unwrap(), 0);
    assert!(
        told.elapsed() < Duration::from_secs(15),
        "it would wait five for each topic: {:?}",
        told.elapsed()
    );
}
