//! A TCP proxy that listens in and breaks connections.
//!
//! It stands between a client and a server, records what both say (golden bytes for codec tests), and fails on demand
//! in the ways a network does: connections cut, new ones refused, answers lost.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::{Error, Result};

/// Bytes kept of each direction of a connection; the rest is forwarded only.
pub const KEPT: usize = 16 << 20;

/// A proxy in front of one server; dropping it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    refuse: AtomicBool,
    lose_answers: AtomicBool,
    closed: AtomicBool,
    connections: Mutex<Vec<Connection>>,
}

/// Both ends, to cut them, and what was said.
#[derive(Debug)]
struct Connection {
    ends: Option<[TcpStream; 2]>,
    /// Directions that still flow: at 0 the ends are let go.
    flowing: u8,
    client: Vec<u8>,
    server: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    ///
    /// # Errors
    /// No port could be bound.
    pub fn start(target: SocketAddr) -> Result<Proxy> {
        Proxy::start_on((std::net::Ipv4Addr::LOCALHOST, 0).into(), target)
    }

    /// Listens on `listen` and forwards to `target`.
    ///
    /// To stand in front of a broker that clients find by its route, give the broker `brokerIP1=127.0.0.2` and listen
    /// on its [`route_addr`](crate::Broker::route_addr). Line 5 only: a broker of line 4 occupies its port on every
    /// address.
    ///
    /// # Errors
    /// The address could not be bound.
    pub fn start_on(listen: SocketAddr, target: SocketAddr) -> Result<Proxy> {
        let bound = TcpListener::bind(listen).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (addr, listener) = bound.map_err(|e| Error::new(format!("cannot listen on {listen}: {e}")))?;
        let shared = Arc::new(Shared {
            target,
            refuse: AtomicBool::new(false),
            lose_answers: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            connections: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.closed.load(Ordering::SeqCst) {
                    break;
                }
                // Dropping the stream is the refusal. A client that is gone already is nobody's loss.
                if let Ok(client) = client
                    && !accepting.refuse.load(Ordering::SeqCst)
                {
                    let _ = accepting.connect(client);
                }
            }
        });
        Ok(Proxy { addr, shared })
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Cuts all connections there are.
    pub fn cut(&self) {
        for connection in self.shared.lock().iter_mut() {
            for end in connection.ends.take().into_iter().flatten() {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }

    /// Whether new connections are closed as soon as they are accepted.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuse.store(refuse, Ordering::SeqCst);
    }

    /// Whether what the server says is recorded and thrown away: requests arrive and nobody learns how they went.
    pub fn lose_answers(&self, lose: bool) {
        self.shared.lose_answers.store(lose, Ordering::SeqCst);
    }

    /// What clients said, for each connection in the order they were made.
    pub fn recorded_client(&self) -> Vec<Vec<u8>> {
        self.shared.lock().iter().map(|connection| connection.client.clone()).collect()
    }

    /// What the server said, for each connection in the order they were made.
    pub fn recorded_server(&self) -> Vec<Vec<u8>> {
        self.shared.lock().iter().map(|connection| connection.server.clone()).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr);
        self.cut();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(self: &Arc<Shared>, client: TcpStream) -> std::io::Result<()> {
        let server = TcpStream::connect(self.target)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ends = Some([client.try_clone()?, server.try_clone()?]);
        let mut connections = self.lock();
        let index = connections.len();
        connections.push(Connection { ends, flowing: 2, client: Vec::new(), server: Vec::new() });
        drop(connections);

        let (to_server, to_client) = ((client.try_clone()?, server.try_clone()?), (server, client));
        for (side, (from, to)) in [(Side::Client, to_server), (Side::Server, to_client)] {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.forward(index, side, from, to));
        }
        Ok(())
    }

    /// Copies until one end closes, then passes the close on.
    fn forward(&self, index: usize, side: Side, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let said = &buffer[..n];
            // Recorded before it is forwarded: who has seen the answer finds the question in the record.
            if let Some(connection) = self.lock().get_mut(index) {
                let record = match side {
                    Side::Client => &mut connection.client,
                    Side::Server => &mut connection.server,
                };
                let room = KEPT.saturating_sub(record.len()).min(n);
                record.extend(&said[..room]);
            }
            let lost = matches!(side, Side::Server) && self.lose_answers.load(Ordering::SeqCst);
            if !lost && to.write_all(said).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        if let Some(connection) = self.lock().get_mut(index) {
            connection.flowing -= 1;
            if connection.flowing == 0 {
                connection.ends = None;
            }
        }
    }
}
