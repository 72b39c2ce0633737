//! NSQ's servers and programs.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

use crate::server::{Launch, Ready, Server, local};
use crate::{Error, Result, fetch, http};

const TCP: u16 = 0;
const HTTP: u16 = 1;
const HTTPS: u16 = 2;

/// The path of one of NSQ's programs, such as `nsq_to_nsq`, fetched if need be.
///
/// # Errors
/// The fetch failed, or there is no such program among the pinned ones.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = fetch::nsq()?.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::new(format!("no program {name} was built: it needs a tool line in tests/brokers/nsq/go.mod")))
}

/// Runs one of NSQ's programs under supervision, ready at once.
///
/// # Errors
/// The fetch failed, or the process could not be made.
pub fn run(name: &str, args: &[&str]) -> Result<Server> {
    let program = program(name)?;
    Server::run(name, |folder| {
        let mut command = Command::new(&program);
        command.args(args).current_dir(folder);
        command
    })
}

/// All servers of NSQ answer a ping.
fn answers_ping(http: SocketAddr) -> Ready {
    Box::new(move |_| http::get(http, "/ping").is_ok_and(|(status, _)| status == 200))
}

/// Starts `name` with its own flags, then `flags`: of a flag given twice, the last one counts.
fn start(
    name: &str,
    own: impl Fn(SocketAddr, SocketAddr, SocketAddr) -> Vec<String>,
    flags: &[String],
) -> Result<Server> {
    let program = program(name)?;
    Server::start(name, |folder, ports| {
        let [tcp, http, https] = [TCP, HTTP, HTTPS].map(|index| local(ports.get(index)));
        let mut command = Command::new(&program);
        command.args(own(tcp, http, https)).args(flags).current_dir(folder);
        Ok(Launch { command, ready: answers_ping(http) })
    })
}

/// An nsqlookupd.
pub struct Nsqlookupd(Server);

impl Nsqlookupd {
    /// Starts an nsqlookupd.
    ///
    /// # Errors
    /// The fetch failed, or the server was not ready within three minutes.
    pub fn start(flags: &[String]) -> Result<Nsqlookupd> {
        let own = |tcp, http, _| {
            vec![
                format!("-tcp-address={tcp}"),
                format!("-http-address={http}"),
                "-broadcast-address=127.0.0.1".to_owned(),
            ]
        };
        start("nsqlookupd", own, flags).map(Nsqlookupd)
    }

    /// Where nsqd connects.
    pub fn tcp_addr(&self) -> SocketAddr {
        self.port_addr(TCP)
    }

    /// Where consumers ask.
    pub fn http_addr(&self) -> SocketAddr {
        self.port_addr(HTTP)
    }

    /// Whether it lists the nsqd with this HTTP port.
    pub fn lists(&self, nsqd_http: SocketAddr) -> bool {
        let entry = format!("\"http_port\":{},", nsqd_http.port());
        http::get(self.http_addr(), "/nodes").is_ok_and(|(_, body)| body.contains(&entry))
    }
}

impl Deref for Nsqlookupd {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

/// What kind of nsqd to start.
#[derive(Clone, Debug, Default)]
pub struct NsqdOptions {
    /// TCP addresses of the nsqlookupds to register with.
    pub lookupds: Vec<SocketAddr>,
    /// Further flags, such as `-max-msg-size=1048576`; they win over this crate's.
    pub flags: Vec<String>,
}

/// An nsqd.
pub struct Nsqd(Server);

impl Nsqd {
    /// Starts an nsqd.
    ///
    /// # Errors
    /// The fetch failed, or the server was not ready within three minutes.
    pub fn start(options: &NsqdOptions) -> Result<Nsqd> {
        let own = |tcp: SocketAddr, http: SocketAddr, https: SocketAddr| {
            let mut flags = vec![
                format!("-tcp-address={tcp}"),
                format!("-http-address={http}"),
                format!("-https-address={https}"),
                "-broadcast-address=127.0.0.1".to_owned(),
                "-data-path=.".to_owned(),
                // Taken from the host's name by default, and then two nsqds of one machine mint the same message ids.
                format!("-node-id={}", tcp.port() / crate::ports::BLOCK % 1024),
            ];
            flags.extend(options.lookupds.iter().map(|addr| format!("-lookupd-tcp-address={addr}")));
            flags
        };
        start("nsqd", own, &options.flags).map(Nsqd)
    }

    /// Where clients connect.
    pub fn tcp_addr(&self) -> SocketAddr {
        self.port_addr(TCP)
    }

    /// Where its HTTP API is.
    pub fn http_addr(&self) -> SocketAddr {
        self.port_addr(HTTP)
    }
}

impl Deref for Nsqd {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

/// An nsqadmin.
pub struct Nsqadmin(Server);

impl Nsqadmin {
    /// Starts an nsqadmin that asks the nsqlookupds at these HTTP addresses.
    ///
    /// # Errors
    /// The fetch failed, or the server was not ready within three minutes.
    pub fn start(lookupds_http: &[SocketAddr], flags: &[String]) -> Result<Nsqadmin> {
        let own = |_, http, _| {
            let mut flags = vec![format!("-http-address={http}")];
            flags.extend(lookupds_http.iter().map(|addr| format!("-lookupd-http-address={addr}")));
            flags
        };
        start("nsqadmin", own, flags).map(Nsqadmin)
    }

    /// Where browsers connect.
    pub fn http_addr(&self) -> SocketAddr {
        self.port_addr(HTTP)
    }
}

impl Deref for Nsqadmin {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}
