//! Cutovers that wait for a consumer, and what comes in between.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use nsqbridge_brokers::{Line, Nsqd, NsqdOptions, RigOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{CHANNELS, GroupConsumer, Stage, act, doubled, planned::plan};
use crate::bridge::{
    Consumer, Gateway, SOON, To, blocking, create_channel, eventually, own, shared, topic, transfer,
};

/// A consumer that has taken one message and does not finish it; and the message's id.
pub async fn holding(nsqd: &Nsqd, topic: &str, channel: &str) -> (TcpStream, String) {
    const MESSAGE: u32 = 2;
    let mut stream = TcpStream::connect(nsqd.tcp_addr()).await.unwrap();
    stream.write_all(format!("  V2SUB {topic} {channel}\nRDY 1\n").as_bytes()).await.unwrap();
    let mut buffer = BytesMut::new();
    loop {
        while buffer.len() >= 4 && buffer.len() >= 4 + (&buffer[..4]).get_u32() as usize {
            let size = buffer.get_u32() as usize;
            let mut frame = buffer.split_to(size);
            if frame.get_u32() == MESSAGE {
                return (stream, String::from_utf8(frame[10..26].to_vec()).unwrap());
            }
        }
        assert!(stream.read_buf(&mut buffer).await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_put_off_are_waited_for_with_nothing_held() {
    let stage = Stage::set(shared(Line::V5), "put.off").await;
    let load = stage.load(20, Duration::from_millis(50));
    stage.at_work(500).await;
    let (mut stream, id) = holding(&stage.rig.nsqds[0], &stage.topic, CHANNELS[0]).await;
    stream.write_all(format!("RDY 0\nREQ {id} 30000\n").as_bytes()).await.unwrap();
    eventually("it is put off", SOON, async || stage.status().await["messages"][2] == 1).await;
    let plan = plan(&stage, &stage.group(), "policies.deferred = 'wait'\ngates.max_pause = '60s'");
    let flags = ["-f", plan.path().to_str().unwrap()];
    let cut = stage.act("cutover", &flags);
    let looking = async {
        let count = stage.others[0].count();
        eventually("the others go on meanwhile", SOON, async || stage.others[0].count() > count + 100).await;
        stage.status().await
    };
    let (ended, meanwhile) = tokio::join!(cut, looking);
    assert_eq!((&meanwhile["messages"][2], &meanwhile["fence"]), (&1.into(), &serde_json::Value::Null));
    ended.done();
    let at = |what: &str| {
        ended.events.iter().position(|event| event["step"] == what || event["reason"] == what).unwrap()
    };
    assert!(at("DeferredMessagesPending") < at("Locked"), "{ended:?}");
    let new = GroupConsumer::start(stage.rig, &stage.topic, &stage.group());
    let sent = load.stop().await;
    assert_eq!(doubled(&stage.settled(sent, &new).await), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nsqd_that_joins_meanwhile_is_noticed_and_everything_undone() {
    let rig = own(Line::V5, &RigOptions { brokers: 1, nsqds: 1, ..RigOptions::default() });
    let (topic, nsqd) = (topic("joined"), &rig.nsqds[0]);
    create_channel(nsqd, &topic, "moved").await;
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    let relay = transfer(&rig.name_server, &topic, &To::Lookupd(&rig.nsqlookupd), &[]);
    let options = NsqdOptions { lookupds: vec![rig.nsqlookupd.tcp_addr()], ..NsqdOptions::default() };
    let late = blocking(|| Nsqd::start(&options)).unwrap();
    gateway.publish(&topic, "one").await;
    super::relayed(&rig, &topic).await;
    // With a message in hand of somebody the driver waits.
    let (stuck, _) = holding(nsqd, &topic, "moved").await;
    let path = format!("{topic}/moved");
    let lookupd = rig.nsqlookupd.http_addr().to_string();
    let arguments =
        ["cutover", &path, "--execute", "--yes", "--lookupd-http-address", &lookupd, "--max-pause", "60s"];
    let joining = async {
        eventually("the relay is fenced", SOON, async || relay.logged().contains("fenced")).await;
        create_channel(&late, &topic, "moved").await;
        let lists = format!("/lookup?topic={topic}");
        let address = late.tcp_addr().port().to_string();
        eventually("it is listed", SOON, async || {
            blocking(|| nsqbridge_brokers::http::get(rig.nsqlookupd.http_addr(), &lists))
                .is_ok_and(|(_, found)| found.contains(&address))
        })
        .await;
        drop(stuck);
        Consumer::start(&[nsqd], &topic, "moved")
    };
    let (ended, consumer) = tokio::join!(act(&rig, &arguments), joining);
    assert_eq!((ended.code, ended.reason()), (1, "NsqdsChanged"), "{ended:?}");
    assert_eq!(ended.last()["undone"], true);
    consumer.wait_for(1).await;
    // Once more, it is one of them.
    act(&rig, &arguments).await.done();
}
