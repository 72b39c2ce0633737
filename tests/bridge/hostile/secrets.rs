//! No secret is in a log, an error, an answer or a process list, however much is logged and whatever goes wrong.

use std::{net::SocketAddr, process::Command};

use nsqbridge_brokers::{Line, Rig, RigOptions, ports::Ports, rocketmq::Settings};
use tempfile::TempDir;

use crate::{
    admin::plainly,
    bridge::{Consumer, Program, SOON, blocking, create_channel, eventually, own, topic},
    guarded::{ACCESS_KEY, SECRET_KEY, access_control},
};

const WRONG_SECRET: &str = "wr0ng-secret-2";
const SECURITY_TOKEN: &str = "s3curity-token-3";
const ADMIN_TOKEN: &str = "adm1n-token-4";

/// What was seen of a program, none of which may hold a secret.
struct Seen(Vec<(String, String)>);

impl Seen {
    fn note(&mut self, what: impl Into<String>, text: impl Into<String>) {
        self.0.push((what.into(), text.into()));
    }

    fn of_process(&mut self, program: &Program) {
        let of_proc = |file: &str| std::fs::read(format!("/proc/{}/{file}", program.pid())).unwrap();
        self.note(
            format!("{}: its command line", program.title()),
            String::from_utf8_lossy(&of_proc("cmdline")),
        );
        self.note(format!("{}: its log", program.title()), program.logged());
    }

    async fn of_answers(&mut self, http: SocketAddr, admin: SocketAddr) {
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        for path in ["/", "/readyz", "/readyz?format=json", "/metrics", "/livez", "/config"] {
            self.note(format!("admin {path}"), plainly(admin, path, Some(&bearer)).await.unwrap().1);
            self.note(
                format!("admin {path}, refused"),
                plainly(admin, path, Some("Bearer guess")).await.unwrap().1,
            );
        }
        for path in [
            "/info",
            "/ping",
            "/stats?format=json",
            "/config/",
            "/config",
            "/config/secret_key",
            "/config/access_key",
            "/config/log_level",
            "/config/broadcast_address",
            "/config/nsqlookupd_tcp_addresses",
            "/debug/pprof/cmdline",
        ] {
            self.note(format!("gateway {path}"), plainly(http, path, None).await.unwrap().1);
        }
    }

    fn holds_no_secret(&self) {
        for (what, text) in &self.0 {
            for secret in [SECRET_KEY, WRONG_SECRET, SECURITY_TOKEN, ADMIN_TOKEN] {
                assert!(!text.contains(secret), "{secret} is in {what}:\n{text}");
            }
        }
    }

    /// What was noted under this name: the test would prove nothing with nothing to look at.
    fn noted(&self, what: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| name == what);
        &found.unwrap_or_else(|| panic!("nothing was noted as {what}")).1
    }
}

fn gateway(
    rig: &Rig,
    ports: &Ports,
    flags: &[&str],
    environment: &[(&str, &str)],
) -> (Program, [SocketAddr; 2]) {
    let [http, admin] = [0, 1].map(|port| SocketAddr::from(([127, 0, 0, 1], ports.get(port))));
    let (name_server, http_text, admin_text) =
        (rig.name_server.addr().to_string(), http.to_string(), admin.to_string());
    let fixed = ["gateway", "-n", &name_server, "--http-address", &http_text, "--admin-address", &admin_text];
    let arguments = fixed.iter().chain(flags).map(|&text| text.to_owned()).collect::<Vec<_>>();
    (Program::in_environment("gateway", &arguments, environment), [http, admin])
}

async fn publish(http: SocketAddr, topic: &str) -> u16 {
    let url = format!("http://{http}/pub?topic={topic}");
    reqwest::Client::new().post(url).body("x").send().await.map_or(0, |answer| answer.status().as_u16())
}

async fn secrets_are_told_to_nobody(line: Line) {
    let options = RigOptions {
        brokers: 1,
        nsqds: 1,
        broker: access_control(line, Settings::new()),
        ..RigOptions::default()
    };
    let rig = own(line, &options);
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right", &format!("{SECRET_KEY}\n")), file("wrong", WRONG_SECRET));
    let admin_token = file("token", ADMIN_TOKEN);
    let topic = topic("secret");
    let mut seen = Seen(Vec::new());

    // Everything as it should be, the secret from a file and the admin token, too.
    let ports = Ports::claim().unwrap();
    let flags = ["--access-key", ACCESS_KEY, "--log-level", "trace", "--admin-token-file", &admin_token];
    let from_file = [&flags[..], &["--secret-key-file", &right]].concat();
    let (program, [http, admin]) = gateway(&rig, &ports, &from_file, &[]);
    eventually("a publish is stored", SOON, async || publish(http, &topic).await == 200).await;
    seen.of_answers(http, admin).await;
    seen.of_process(&program);
    assert!(seen.noted("gateway: its log").contains("DEBUG"), "trace and debug are logged");
    assert!(seen.noted("admin /metrics").contains("nsqbridge_gateway_messages_total"));
    drop(program);

    // All secrets from the environment, and brokers that find the signature wrong.
    for (secret, token) in
        [(SECRET_KEY, Some(SECURITY_TOKEN)), (WRONG_SECRET, None), (WRONG_SECRET, Some(SECURITY_TOKEN))]
    {
        let ports = Ports::claim().unwrap();
        let mut environment = vec![("NSQBRIDGE_SECRET_KEY", secret), ("NSQBRIDGE_ADMIN_TOKEN", ADMIN_TOKEN)];
        environment.extend(token.map(|token| ("NSQBRIDGE_SECURITY_TOKEN", token)));
        let (program, [http, admin]) = gateway(&rig, &ports, &flags[..4], &environment);
        let answered = async || matches!(publish(http, &topic).await, 200 | 503);
        eventually("a publish is answered", SOON, answered).await;
        if secret == WRONG_SECRET {
            assert_eq!(publish(http, &topic).await, 503);
        }
        seen.of_answers(http, admin).await;
        seen.of_process(&program);
    }
    let refusals =
        seen.0.iter().filter(|(what, text)| what.ends_with("its log") && text.contains("ignature"));
    assert_eq!(refusals.count(), 2, "the brokers' refusals are in the logs");

    // The relay, with both.
    create_channel(&rig.nsqds[0], &topic, "ch").await;
    let consumer = Consumer::start(&[&rig.nsqds[0]], &topic, "ch");
    for secret in [&wrong, &right] {
        let (name_server, nsqd) = (rig.name_server.addr().to_string(), rig.nsqds[0].http_addr().to_string());
        let fixed = ["transfer", "-n", &name_server, "--topic", &topic, "--nsqd-http-address", &nsqd];
        let rest = [
            "--admin-address",
            "",
            "--access-key",
            ACCESS_KEY,
            "--log-level",
            "trace",
            "--secret-key-file",
            secret,
        ];
        let arguments: Vec<String> = fixed.iter().chain(&rest).map(|&text| text.to_owned()).collect();
        let program =
            Program::in_environment("transfer", &arguments, &[("NSQBRIDGE_ADMIN_TOKEN", ADMIN_TOKEN)]);
        if secret == &right {
            consumer.wait_for(1).await;
        } else {
            let refused = async || program.logged().contains("ignature");
            eventually("the broker refuses it", SOON, refused).await;
        }
        seen.of_process(&program);
    }

    // What is asked once, and starts that fail.
    let name_server = rig.name_server.addr().to_string();
    let mut ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nsqbridge"));
        command.args(arguments).env("NSQBRIDGE_SECURITY_TOKEN", SECURITY_TOKEN);
        let output = blocking(|| command.output()).unwrap();
        for (stream, bytes) in [("output", &output.stdout), ("errors", &output.stderr)] {
            seen.note(format!("{arguments:?}: its {stream}"), String::from_utf8_lossy(bytes));
        }
    };
    for secret in [&right, &wrong] {
        let signed = [
            "-n",
            &name_server,
            "--access-key",
            ACCESS_KEY,
            "--secret-key-file",
            secret,
            "--log-level",
            "trace",
        ];
        ask(&[&["doctor"][..], &signed].concat());
        ask(&[&["doctor", "-o", "json"][..], &signed].concat());
        ask(&[&["status"][..], &signed].concat());
        ask(&["gateway", "-n", "a:1", "--secret-key-file", secret]);
    }
    let misplaced =
        file("misplaced.toml", &format!("[rocketmq]\nsecret_key = '{SECRET_KEY}'\ntls_ca = 'x'\n"));
    ask(&["gateway", "-c", &misplaced]);
    ask(&["gateway", "-n", "a:1", "--rocketmq-tls-ca", &right]);
    ask(&["gateway", "-n", "a:1", "--admin-tls-cert", &right, "--admin-tls-key", &admin_token]);
    let spoilt = file("spoilt", &format!("{ADMIN_TOKEN} and more"));
    ask(&["gateway", "-n", "a:1", "--admin-token-file", &spoilt]);
    ask(&["gateway", "--help"]);
    seen.holds_no_secret();
}

on_both_lines!(secrets_are_told_to_nobody);
