//! The configuration file: the annotated one, precedence, and what is said about mistakes.

use std::{
    ffi::OsString,
    process::{Command, Output},
};

use bytes::Bytes;
use nsqbridge::{
    cli,
    config::{self, Refusal, Work},
};
use nsqbridge_brokers::{Line, http};

use crate::bridge::{Consumer, Program, SOON, blocking, create_channel, eventually, file, shared, topic};

const ANNOTATED: &str = include_str!("../../docs/bridge.toml");

fn parse(text: &str, arguments: &[&str]) -> Result<config::Invocation, Refusal> {
    let file = file(text);
    let arguments = ["nsqbridge", arguments[0], "-c", file.path().to_str().unwrap()]
        .into_iter()
        .chain(arguments[1..].iter().copied());
    config::parse(arguments.map(OsString::from))
}

fn gateway(invocation: config::Invocation) -> cli::GatewayArgs {
    let Work::Run { roles, .. } = invocation.work else { panic!("no role") };
    match roles.into_iter().next() {
        Some(cli::Role::Gateway(args)) => *args,
        other => panic!("{other:?}"),
    }
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nsqbridge"));
    command
        .args(arguments)
        .env_clear()
        .env("NSQBRIDGE_TCP_ADDRESS", "")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn the_annotated_file_loads_and_knows_every_key_with_its_default() {
    let invocation = parse(ANNOTATED, &["run"]).unwrap();
    assert!(matches!(&invocation.work, Work::Run { roles, .. } if roles.len() == 3), "{invocation:?}");

    // With the keys that have no default, too: a key that does not exist would be refused.
    let uncommented = |line: &str| {
        let key = line.strip_prefix("# ").filter(|rest| {
            rest.split_once(" = ").is_some_and(|(key, value)| {
                !key.contains(' ') && (value.starts_with('"') || value.starts_with('['))
            })
        });
        key.unwrap_or(line).to_owned()
    };
    let everything: Vec<String> = ANNOTATED.lines().map(uncommented).collect();
    let everything = everything.join("\n");
    parse(&everything, &["run"]).unwrap();

    let table = |text: &str| text.parse::<toml::Table>().unwrap();
    let (everything, annotated) = (table(&everything), table(ANNOTATED));
    let lacking: Vec<_> = config::keys()
        .into_iter()
        .filter(|key| everything.get(&key.section).is_none_or(|section| section.get(&key.name).is_none()))
        .collect();
    assert_eq!(lacking, [], "keys the annotated file does not show");

    for config::Key { section, name, default } in config::keys() {
        let shown = annotated.get(&section).and_then(|content| content.get(&name)).map(text);
        if let (Some(shown), [default]) = (shown, &default[..]) {
            assert_eq!(shown, *default, "{section}.{name}: its default is shown");
        }
    }
}

/// A single value as a flag would be given it.
fn text(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn every_flag_has_an_environment_variable() {
    use clap::CommandFactory;
    let command = cli::Cli::command();
    for role in command.get_subcommands() {
        for flag in role.get_arguments().chain(command.get_arguments()) {
            assert!(
                flag.is_positional() || flag.get_env().is_some(),
                "{} --{}",
                role.get_name(),
                flag.get_id()
            );
        }
    }
}

#[test]
fn a_command_takes_servers_from_the_file_unless_a_plan_names_its_own() {
    let text = "[rocketmq]\nnamesrv = 'a:1;b:2'\n[transfer]\nlookupd_http_address = ['c:3']\n";
    let servers = |flags: &[&str]| match parse(text, &[&["status"], flags].concat()).unwrap().work {
        Work::Ask(cli::Question::Status(args)) => {
            (args.rocketmq.namesrv.len(), args.lookupd_http_address.len())
        }
        other => panic!("{other:?}"),
    };
    assert_eq!((servers(&[]), servers(&["-f", "plan.toml"])), ((2, 1), (0, 0)));
}

#[test]
fn flags_win_over_the_environment_and_both_over_the_file() {
    let file =
        file("[rocketmq]\nnamesrv = 'a:1;b:2'\n[gateway]\nhttp_address = '127.0.0.1:1'\nmax_msg_size = 77\n");
    let path = file.path().to_str().unwrap();
    // An address that cannot be listened on is named in the error: it tells which one counted.
    let listens = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output =
            run(&[&["gateway", "-c", path, "--max-body-size", "100"], arguments].concat(), environment);
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), errors)
    };
    let named = |(code, errors): (Option<i32>, String), address: &str| {
        assert!(code == Some(1) && errors.contains(&format!("listening on {address}")), "{code:?} {errors}");
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let also_taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (environment, flag) =
        (taken.local_addr().unwrap().to_string(), also_taken.local_addr().unwrap().to_string());
    named(listens(&[], &[("NSQBRIDGE_HTTP_ADDRESS", &environment)]), &environment);
    named(listens(&["--http-address", &flag], &[("NSQBRIDGE_HTTP_ADDRESS", &environment)]), &flag);

    let args = gateway(
        parse("[rocketmq]\nnamesrv = 'a:1;b:2'\n[gateway]\nmax_msg_size = 77\n", &["gateway"]).unwrap(),
    );
    assert_eq!((args.max_msg_size, args.rocketmq.namesrv.len()), (77, 2));
    for (text, address) in
        [("", Some("0.0.0.0:4150")), ("tcp_address = ':1'", Some("0.0.0.0:1")), ("tcp_address = ''", None)]
    {
        let args = gateway(parse(&format!("[gateway]\n{text}\n"), &["run"]).unwrap());
        assert_eq!(args.tcp_address.0.map(|address| address.to_string()).as_deref(), address);
    }
    let args =
        gateway(parse("[gateway]\nmax_msg_size = 77\n", &["gateway", "--max-msg-size", "78"]).unwrap());
    assert_eq!(args.max_msg_size, 78);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_threads_work_as_are_asked_for() {
    for (asked, workers) in [(&[][..], 0), (&["--threads", "3"][..], 3)] {
        let ports = nsqbridge_brokers::ports::Ports::claim().unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], ports.get(0)));
        let told =
            ["gateway", "-n", "127.0.0.1:1", "--admin-address", "", "--http-address", &address.to_string()]
                .map(str::to_owned);
        let asked: Vec<String> = asked.iter().map(|&flag| flag.to_owned()).collect();
        let process = Program::start("threads", &[&told[..], &asked].concat());
        eventually("it serves", SOON, async || blocking(|| http::get(address, "/ping")).is_ok()).await;
        // The thread that only waits for the others has the program's name.
        let threads = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
        let names =
            threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap());
        assert_eq!(names.filter(|name| name.starts_with("tokio")).count(), workers);
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_with_what_is_accepted() {
    let text = r#"
        gatway = 1
        [log]
        format = "xml"
        [rocketmq]
        namesrv = ["nohost", "a:1"]
        [gateway]
        max_msg_size = 0
        htp_address = "0.0.0.0:4151"
        publish_timeout = 4
        topic_queues = [1, 2]
        [names.rename]
        "a b" = "x"
        [trasnfer]
        topic = "t"
    "#;
    let refusal = parse(text, &["run"]).unwrap_err().to_string();
    for says in [
        "9 problems",
        "[gatway] is no section; did you mean gateway?",
        "[trasnfer] is no section; did you mean transfer?",
        r#"log.format = "xml": one of human, json is accepted"#,
        r#"rocketmq.namesrv = "nohost": "#,
        r#"gateway.max_msg_size = "0": a number from 1 to 4194304 is accepted"#,
        "gateway.htp_address is no key; did you mean http_address?",
        r#"gateway.publish_timeout = "4": "#,
        "gateway.topic_queues = [1, 2]: a single value is accepted",
        r#"names.rename = "a b=x": "#,
    ] {
        assert!(refusal.contains(says), "{says:?} is not in {refusal}");
    }
    let broken = file("[gateway\n");
    let output = run(&["gateway", "-c", broken.path().to_str().unwrap()], &[]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(errors.contains("line 1") && errors.contains(broken.path().to_str().unwrap()), "{errors}");
    let output = run(&["run"], &[("NSQBRIDGE_CONFIG", "/no/such/file")]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/no/such/file"));

    // What does not fit together is told together, too.
    let output = run(&["transfer", "--rename", "a=x,b=x", "--secret-key-file", "/no"], &[]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), errors.lines().count()), (Some(3), 5), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_runs_every_role_of_a_file() {
    let rig = shared(Line::V5);
    let ports = nsqbridge_brokers::ports::Ports::claim().unwrap();
    let topic = topic("run");
    create_channel(&rig.nsqds[0], &topic, "ch").await;
    let [http_address, admin] =
        [0, 1].map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], ports.get(port))));
    let file = file(&format!(
        "[rocketmq]\nnamesrv = '{}'\n[admin]\naddress = '{admin}'\n[gateway]\nhttp_address = '{http_address}'\n\
         [transfer]\ntopic = ['{topic}']\nnsqd_http_address = '{}'\n",
        rig.name_server.addr(),
        rig.nsqds[0].http_addr(),
    ));
    let process =
        Program::start("run", &["run".to_owned(), "-c".to_owned(), file.path().to_str().unwrap().to_owned()]);
    let ready = async || blocking(|| http::get(admin, "/readyz")).is_ok_and(|(status, _)| status == 200);
    eventually("it is ready", SOON, ready).await;
    let relays = async || {
        let line = format!("[+] relay of {topic}: ok");
        blocking(|| http::get(admin, "/readyz")).is_ok_and(|(_, text)| text.contains(&line))
    };
    let consumer = Consumer::start(&[&rig.nsqds[0]], &topic, "ch");
    let url = format!("http://{http_address}/pub?topic={topic}");
    let answer = reqwest::Client::new().post(url).body("through").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "OK");
    assert_eq!(consumer.wait_for(1).await, [Bytes::from("through")]);
    eventually("the relay is listed", SOON, relays).await;
    let (_, metrics) = blocking(|| http::get(admin, "/metrics")).unwrap();
    for name in [
        "nsqbridge_gateway_messages_total",
        "nsqbridge_transfer_relayed_messages_total",
        "nsqbridge_transfer_lag_seconds",
    ] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    process.signal("TERM").unwrap();
    assert_eq!(blocking(|| process.wait(SOON)).unwrap(), 0);
    let log = process.logged();
    assert!(log.contains("gateway stopped") && log.contains("transfer stopped"), "{log}");
}
