//! The program as scripts and service managers see it: exit codes, signals, logs.

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use nsqbridge_brokers::{Line, Server, ports::Ports};

use crate::bridge::{Gateway, SOON, To, blocking, eventually, shared, topic, transfer};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nsqbridge")).args(arguments).env_clear().output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn usage_errors_exit_with_3_and_say_what_is_accepted() {
    for (arguments, says) in [
        (&[][..], "Usage"),
        (&["gatewya"], "gateway"),
        (&["gateway"], "--namesrv"),
        (&["gateway", "--namesrv", "nohost"], "HOST:PORT"),
        (&["gateway", "-n", "a:1", "--max-msg-size", "0"], "from 1 to 4194304"),
        (&["transfer", "-n", "a:1", "--topic", "a b", "--nsqd-http-address", "a:1"], "not an NSQ name"),
        (&["transfer", "-n", "a:1", "--topic", "t"], "--lookupd-http-address"),
        (&["gateway", "-n", "a:1", "--access-key", "k"], "NSQBRIDGE_SECRET_KEY"),
        (&["gateway", "-n", "a:1", "--http-address", "4151"], "IP:PORT or :PORT is accepted"),
        (&["gateway", "-n", "a:1", "--tcp-address", "4150"], "IP:PORT, :PORT or nothing is accepted"),
        (&["gateway", "-n", "a:1", "--broadcast-address", "a\u{1}b"], "--broadcast-address must be a name"),
        (&["gateway", "-n", "a:1", "--rocketmq-tls-ca", "/no/such/file"], "/no/such/file"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", errors(&output));
        assert!(errors(&output).contains(says), "{arguments:?}: {}", errors(&output));
    }
    for arguments in [&["--help"][..], &["gateway", "--help"], &["transfer", "--help"], &["--version"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn an_address_in_use_exits_with_1_and_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["gateway", "-n", "127.0.0.1:1", "--http-address", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains(&address), "{}", errors(&output));

    let output =
        run(&["gateway", "-n", "127.0.0.1:1", "--http-address", "127.0.0.1:0", "--tcp-address", &address]);
    assert_eq!(output.status.code(), Some(1));
    let errors = errors(&output);
    assert!(errors.contains(&address) && errors.contains("another --tcp-address"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_takes_the_open_files_it_may_have_watches_its_connections_and_names_what_it_cannot_reach() {
    let ports = Ports::claim().unwrap();
    let address = format!("127.0.0.1:{}", ports.get(0));
    let gateway = |_: &std::path::Path| {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -Sn 40; exec "$0" "$@""#, env!("CARGO_BIN_EXE_nsqbridge"), "gateway"]);
        command.args(["-n", "127.0.0.1:1", "--admin-address", "", "--http-address", &address]);
        command.args(["--broadcast-address", "", "--tcp-address", ""]);
        command
    };
    let gateway = blocking(|| Server::run("gateway", gateway)).unwrap();
    let mut open = Vec::new();
    for _ in 0..100 {
        eventually("a connection is served", SOON, async || {
            let Ok(mut stream) = TcpStream::connect(&address).await else { return false };
            stream.write_all(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut answer = [0; 15];
            let served = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut answer)).await;
            open.push(stream);
            served.is_ok() && answer == *b"HTTP/1.1 200 OK"
        })
        .await;
    }
    eventually("the name server nobody is behind is named", SOON, async || {
        let log = gateway.log_text();
        log.contains("RocketMQ is not reachable") && log.contains("127.0.0.1:1: not sent: connect")
    })
    .await;
    let info = blocking(|| nsqbridge_brokers::http::get(address.parse().unwrap(), "/info")).unwrap().1;
    assert!(info.contains("broadcast_address") && !info.contains(r#""broadcast_address":"","#), "{info}");
    // In the kernel's table, 02 is the timer of a socket that is kept alive.
    let port = format!("0100007F:{:04X}", ports.get(0));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let accepted: Vec<_> = rows.filter(|row| row[1] == port && row[3] == "01").collect();
    assert!(accepted.len() >= 100 && accepted.iter().all(|row| row[5].starts_with("02:")), "{accepted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_signal_drains_and_exits_0_a_second_one_stops_at_once_with_1() {
    let rig = shared(Line::V5);
    let gateway = Gateway::start(&rig.name_server, &["--log-format", "json"]).await;
    gateway.process.signal("TERM").unwrap();
    assert_eq!(blocking(|| gateway.process.wait(SOON)).unwrap(), 0);
    for line in gateway.process.logged().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["timestamp"].is_string() && line["fields"]["message"].is_string(), "{line}");
    }

    // Nobody answers at this nsqd's address, so what is in flight cannot be drained.
    let topic = topic("stubborn");
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&rig.name_server, &[]).await;
    gateway.publish(&topic, "x").await;
    let nsqd = &rig.nsqds[0];
    let relay = transfer(
        &rig.name_server,
        &topic,
        &To::Nsqds(&[nsqd]),
        &["--nsqd-http-address", &silent.local_addr().unwrap().to_string(), "--log-level", "debug"],
    );
    eventually("a batch is in flight", SOON, async || relay.logged().contains("batch begun")).await;
    let started = std::time::Instant::now();
    relay.signal("TERM").unwrap();
    eventually("it drains", SOON, async || relay.logged().contains("a second signal stops now")).await;
    relay.signal("TERM").unwrap();
    assert_eq!(blocking(|| relay.wait(SOON)).unwrap(), 1);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_any_more_it_ends_in_order() {
    let name_server = shared(Line::V5).name_server.addr().to_string();
    for arguments in [&["doctor"][..], &["status"], &["status", "-w"], &["status", "-o", "json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_nsqbridge"));
        command.args(arguments).args(["--namesrv", &name_server]).env_clear().stdout(writer);
        let ended = blocking(|| command.stderr(Stdio::piped()).output()).unwrap();
        assert!(ended.status.code().is_some_and(|code| code < 3), "{arguments:?}: {}", errors(&ended));
        assert!(!errors(&ended).contains("panicked"), "{arguments:?}: {}", errors(&ended));
    }
}
