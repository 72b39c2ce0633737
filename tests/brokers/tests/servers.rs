//! Real servers start, break and come back as this crate promises.
//!
//! Needs Java, Maven and Go the first time.

#![allow(clippy::unwrap_used, reason = "in a test, also in its helpers, a panic is the report")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nsqbridge_brokers::{
    Broker, BrokerOptions, Flow, Line, NameServer, Nsqadmin, Nsqd, NsqdOptions, Nsqlookupd, Proxy, Result,
    Server, Settings, Side, http, nsq, rocketmq, shared,
};

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Runs `steps` on a name server and a broker of one line.
fn with_broker(line: Line, steps: impl FnOnce(&NameServer, &Broker) -> Result<()>) {
    let light = Settings::light();
    let name_server = NameServer::start(line, &light).unwrap();
    let broker = Broker::start(line, &BrokerOptions::new(&[name_server.addr()]).settings(light)).unwrap();
    steps(&name_server, &broker).unwrap();
}

/// Both lines: killed or stopped, a broker is gone, and it comes back at the same address, listed again.
fn breaks_and_comes_back(line: Line) {
    with_broker(line, |name_server, broker| {
        let (addr, pid) = (broker.addr(), broker.pid());
        assert_eq!(name_server.lists(broker.route_addr()), Some(true));
        assert!(broker.start_again().is_err(), "it is still running");

        broker.kill()?;
        assert!(!broker.is_running() && !exists(pid));
        assert!(TcpStream::connect(addr).is_err());

        broker.start_again()?;
        assert_eq!(broker.addr(), addr);
        assert_ne!(broker.pid(), pid);
        assert_eq!(name_server.lists(broker.route_addr()), Some(true));

        let pid = broker.pid();
        broker.pause()?;
        broker.stop()?;
        assert!(!exists(pid));
        name_server.stop()?;
        assert_eq!(name_server.lists(broker.route_addr()), None);
        Ok(())
    });
}

#[test]
fn a_broker_of_line_4_breaks_and_comes_back() {
    breaks_and_comes_back(Line::V4);
}

#[test]
fn a_broker_of_line_5_breaks_and_comes_back() {
    breaks_and_comes_back(Line::V5);
}

#[test]
fn a_shared_rig_is_one_rig_with_everything_registered() {
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(|| shared(Line::V4));
        (shared(Line::V4), other.join().unwrap())
    });
    assert!(std::ptr::eq(one, other));
    let names: Vec<&str> = one.brokers.iter().map(Broker::name).collect();
    assert_eq!(names, ["broker-a", "broker-b"]);
    assert!(one.brokers.iter().all(|broker| one.name_server.lists(broker.route_addr()) == Some(true)));
    assert_eq!(one.nsqds.len(), 2);
    assert!(one.nsqds.iter().all(|nsqd| one.nsqlookupd.lists(nsqd.http_addr())));
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let settings = Settings::new().jvm("-Xmx1q");
    let text = NameServer::start(Line::V4, &settings).err().unwrap().to_string();
    assert!(text.contains("namesrv ended with exit code 1"), "{text}");
    assert!(text.contains("Invalid maximum heap size"), "{text}");
}

#[test]
fn admin_commands_of_rocketmq_run() {
    let main = "org.apache.rocketmq.tools.command.MQAdminStartup";
    let help = rocketmq::run(Line::V4, &Settings::new(), main, &["help", "updateTopic"]).unwrap();
    assert_eq!(help.wait(Duration::from_secs(30)).unwrap(), 0);
    assert!(help.log_text().contains("usage: mqadmin updateTopic"), "{}", help.log_text());
}

#[test]
fn nsq_keeps_messages_over_a_kill_and_nsqadmin_sees_it() {
    let lookupd = Nsqlookupd::start(&[]).unwrap();
    let flags = vec!["-sync-every=1".to_owned(), "-mem-queue-size=0".to_owned()];
    let nsqd = Nsqd::start(&NsqdOptions { lookupds: vec![lookupd.tcp_addr()], flags }).unwrap();
    let admin = Nsqadmin::start(&[lookupd.http_addr()], &[]).unwrap();

    assert_eq!(publish(&nsqd, "orders", "hello"), "OK");
    wait_until("the topic is known to nsqadmin", || {
        http::get(admin.http_addr(), "/api/topics").is_ok_and(|(_, body)| body.contains("orders"))
    });

    // nsqd says OK before it notes how far its disk queue goes, and forgets what lies beyond when killed in between.
    wait_until("the queue's end is noted", || nsqd.folder().join("orders.diskqueue.meta.dat").exists());
    let addr = nsqd.http_addr();
    nsqd.kill().unwrap();
    nsqd.start_again().unwrap();
    assert_eq!(nsqd.http_addr(), addr);
    let address = format!("--nsqd-tcp-address={}", nsqd.tcp_addr());
    let tail = nsq::run("nsq_tail", &["--topic=orders", "--channel=c", "-n=1", &address]).unwrap();
    wait_until("the message is there", || logged(&tail, "hello"));
}

#[test]
fn a_frozen_nsqd_takes_connections_and_does_not_answer() {
    let nsqd = Nsqd::start(&NsqdOptions::default()).unwrap();
    nsqd.pause().unwrap();
    let mut stream = TcpStream::connect(nsqd.http_addr()).unwrap();
    stream.write_all(b"GET /ping HTTP/1.0\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(stream.read(&mut [0; 16]).is_err());

    nsqd.resume().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("OK"), "{answer}");
}

#[test]
fn a_proxy_records_cuts_refuses_and_loses_answers() {
    let nsqd = Nsqd::start(&NsqdOptions::default()).unwrap();
    let proxy = Proxy::start(nsqd.http_addr()).unwrap();

    assert_eq!(http::get(proxy.addr(), "/ping").unwrap(), (200, "OK".to_owned()));
    assert!(proxy.recorded_client()[0].starts_with(b"GET /ping HTTP/1.0\r\n"));
    assert!(proxy.recorded_server()[0].ends_with(b"\r\n\r\nOK"));

    let mut idle = TcpStream::connect(proxy.addr()).unwrap();
    wait_until("the connection is through", || proxy.recorded_client().len() == 2);
    proxy.cut();
    assert!(matches!(idle.read(&mut [0]), Ok(0) | Err(_)));

    proxy.refuse(true);
    assert!(http::get(proxy.addr(), "/ping").is_err());
    proxy.refuse(false);

    proxy.flow(Side::Server, Flow::Lost);
    assert!(http::get(proxy.addr(), "/stats").is_err());
    assert!(proxy.recorded_server()[2].starts_with(b"HTTP/1.0 200"));
    proxy.forget();
    assert!(proxy.recorded_server()[2].is_empty());
}

#[test]
fn a_proxy_holds_back_one_direction_and_cuts_within_an_answer() {
    let nsqd = Nsqd::start(&NsqdOptions::default()).unwrap();
    let proxy = Proxy::start(nsqd.http_addr()).unwrap();
    let ask = || {
        let mut stream = TcpStream::connect(proxy.addr()).unwrap();
        stream.write_all(b"GET /ping HTTP/1.0\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    };
    let answer = |mut stream: TcpStream| {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map(|_| answer)
    };

    let late = Duration::from_millis(300);
    proxy.flow(Side::Server, Flow::Late(late));
    let started = Instant::now();
    assert!(answer(ask()).unwrap().ends_with(b"OK"));
    assert!(started.elapsed() >= late);

    for side in [Side::Client, Side::Server] {
        proxy.flow(side, Flow::Stuck);
        let stream = ask();
        stream.set_read_timeout(Some(late)).unwrap();
        assert!((&stream).read(&mut [0]).is_err(), "{side:?}");
        proxy.flow(side, Flow::Passes);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(answer(stream).unwrap().ends_with(b"OK"), "{side:?}");
    }

    proxy.flow(Side::Server, Flow::CutAfter(10));
    let said = answer(ask()).unwrap_or_default();
    assert!(said.len() <= 10, "{said:?}");
}

fn logged(server: &Server, text: &str) -> bool {
    server.log_tail().contains(text)
}

fn publish(nsqd: &Nsqd, topic: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(nsqd.http_addr()).unwrap();
    let length = body.len();
    write!(stream, "POST /pub?topic={topic} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}
