//! `brokers`: fetches the test servers, or runs a cluster of them for a person.

use std::env;
use std::io::{self, Read as _};
use std::process::ExitCode;

use nsqbridge_brokers::{Error, Line, Result, Rig, RigOptions, fetch, versions};

const HELP: &str = "\
Real RocketMQ and NSQ servers on loopback, for tests, benches and the demo.

Usage:
  brokers fetch
      Fetches the pinned servers into .brokers/ at the workspace root. Needs Java, Maven and Go.
      What is there already is not fetched again; what was broken off is repaired.

  brokers up [--rocketmq VERSION] [--brokers N] [--nsqds N]
      Starts a RocketMQ name server with N brokers (2), and nsqlookupd with N nsqds (2), fetching
      them first if need be. Prints their addresses and runs until Ctrl-C or the end of standard
      input; then the servers and their data are gone.

Environment:
  NSQBRIDGE_BROKERS_DIR     the folder to fetch into, instead of .brokers/
  NSQBRIDGE_BROKERS_KEEP=1  keeps the servers' folders (logs, data) in the temporary folder

Examples:
  brokers up                      RocketMQ 5.5.0 and NSQ 1.3.0
  brokers up --rocketmq 4.9.7     the older line
  curl -d hello 'http://NSQD/pub?topic=orders'
";

enum Task {
    Help,
    Fetch,
    Up(Line, Box<RigOptions>),
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let task = match parse(&args) {
        Ok(task) => task,
        Err(e) => {
            eprintln!("{e}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let done = match task {
        Task::Help => {
            print!("{HELP}");
            Ok(())
        }
        Task::Fetch => fetch::all().map(|()| println!("all servers are in {}", fetch::home().display())),
        Task::Up(line, options) => up(line, &options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Task> {
    let mut args = args.iter().map(String::as_str);
    match args.next() {
        None | Some("help" | "-h" | "--help") => Ok(Task::Help),
        Some("fetch") => match args.next() {
            None => Ok(Task::Fetch),
            Some("-h" | "--help") => Ok(Task::Help),
            Some(other) => Err(Error::new(format!("fetch takes no {other:?}"))),
        },
        Some("up") => {
            let (mut line, mut options) = (Line::V5, RigOptions::default());
            while let Some(flag) = args.next() {
                let mut value = || args.next().ok_or_else(|| Error::new(format!("{flag} needs a value")));
                match flag {
                    "--rocketmq" => line = value()?.parse()?,
                    "--brokers" => options.brokers = count(flag, value()?)?,
                    "--nsqds" => options.nsqds = count(flag, value()?)?,
                    "-h" | "--help" => return Ok(Task::Help),
                    other => return Err(Error::new(format!("up takes no {other:?}"))),
                }
            }
            Ok(Task::Up(line, Box::new(options)))
        }
        Some(other) => Err(Error::new(format!("there is no command {other:?}"))),
    }
}

fn count(flag: &str, text: &str) -> Result<usize> {
    match text.parse() {
        Ok(n @ 1..=26) => Ok(n),
        _ => Err(Error::new(format!("{flag} takes a number from 1 to 26, not {text:?}"))),
    }
}

fn up(line: Line, options: &RigOptions) -> Result<()> {
    let rig = Rig::start(line, &options.clone().light())?;
    println!("RocketMQ {line}, cluster {}", rig.cluster);
    println!(
        "  name server  {:<22}                          pid {}",
        rig.name_server.addr(),
        rig.name_server.pid()
    );
    for broker in &rig.brokers {
        println!(
            "  {:<11}  {:<22}                          pid {}",
            broker.name(),
            broker.addr(),
            broker.pid()
        );
    }
    println!("NSQ {}", versions::NSQ);
    let lookupd = &rig.nsqlookupd;
    println!(
        "  nsqlookupd   {:<22} http {:<21} pid {}",
        lookupd.tcp_addr(),
        lookupd.http_addr(),
        lookupd.pid()
    );
    for nsqd in &rig.nsqds {
        println!("  nsqd         {:<22} http {:<21} pid {}", nsqd.tcp_addr(), nsqd.http_addr(), nsqd.pid());
    }
    println!("running until Ctrl-C or the end of standard input");
    // Ctrl-C ends this process at once, and the servers with it; nothing needs to be caught.
    let mut rest = [0; 256];
    while io::stdin().read(&mut rest).is_ok_and(|n| n > 0) {}
    Ok(())
}
