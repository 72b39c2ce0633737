//! The program `brokers`: what it leaves behind (nothing) and what it says when a tool is missing.

#![allow(clippy::unwrap_used, reason = "in a test, also in its helpers, a panic is the report")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn brokers() -> Command {
    Command::new(env!("CARGO_BIN_EXE_brokers"))
}

/// Starts a small cluster and returns the ids of its servers.
fn up() -> (Child, Vec<u32>) {
    let mut child = brokers()
        .args(["up", "--rocketmq", "4.9.7", "--brokers", "1", "--nsqds", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let pids = lines
        .take_while(|line| !line.starts_with("running"))
        .filter_map(|line| line.rsplit_once("pid ").map(|(_, pid)| pid.parse().unwrap()))
        .collect();
    (child, pids)
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The folders a process has in the temporary folder.
fn folders(owner: u32) -> Vec<String> {
    let names = fs::read_dir(std::env::temp_dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let prefix = format!("nsqbridge-{owner}-");
    names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(&prefix)).collect()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_process_leaves_no_servers_and_no_folders() {
    let (mut child, pids) = up();
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| exists(*pid)));
    assert_eq!(folders(child.id()).len(), 1);
    // A frozen server must go, too.
    let frozen =
        Command::new("sh").args(["-c", "kill -s STOP \"$0\"", &pids[0].to_string()]).status().unwrap();
    assert!(frozen.success());

    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the servers are gone", || !pids.iter().any(|pid| exists(*pid)));
    wait_until("the folders are gone", || folders(child.id()).is_empty());
}

#[test]
fn the_end_of_standard_input_ends_everything() {
    let (mut child, pids) = up();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(!pids.iter().any(|pid| exists(*pid)));
    wait_until("the folders are gone", || folders(child.id()).is_empty());
}

#[test]
fn missing_tools_are_all_named_with_their_cure() {
    let empty = std::env::temp_dir().join(format!("nsqbridge-nothing-{}", std::process::id()));
    let out = brokers()
        .arg("fetch")
        .env("PATH", "")
        .env_remove("JAVA_HOME")
        .env("NSQBRIDGE_BROKERS_DIR", &empty)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8(out.stderr).unwrap();
    for expected in ["Java 17 or newer", "Maven 3.6 or newer", "Go 1.24 or newer", "apt-get install maven"] {
        assert!(text.contains(expected), "{text}");
    }
    assert!(!empty.exists());
}

#[test]
fn wrong_arguments_are_answered_with_the_help() {
    for args in
        [&["down"][..], &["up", "--rocketmq", "3.2.6"], &["up", "--brokers", "0"], &["fetch", "everything"]]
    {
        let out = brokers().args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(2));
        assert!(String::from_utf8(out.stderr).unwrap().contains("brokers up [--rocketmq VERSION]"));
    }
    assert!(brokers().arg("--help").output().unwrap().status.success());
}
