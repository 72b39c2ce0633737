//! A TCP proxy that listens in and breaks connections.
//!
//! It stands between a client and a server, records what both say (golden bytes for codec tests), and fails on demand
//! in the ways a network does: connections cut, also in the middle of what is said, new ones refused, one direction late, stuck
//! or lost.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

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
    closed: AtomicBool,
    connections: Mutex<Vec<Connection>>,
    /// How what the client and what the server says fares.
    flows: Mutex<[Flow; 2]>,
    changed: Condvar,
}

/// How one direction fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// As it should.
    #[default]
    Passes,
    /// Each piece is held back for so long.
    Late(Duration),
    /// Nothing gets through: it waits until this changes.
    Stuck,
    /// It is read, recorded and thrown away.
    Lost,
    /// Each connection is cut after so many bytes more, wherever that is.
    CutAfter(usize),
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

/// Whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the client says.
    Client,
    /// What the server says.
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
            closed: AtomicBool::new(false),
            connections: Mutex::new(Vec::new()),
            flows: Mutex::default(),
            changed: Condvar::new(),
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

    /// Sets how one direction of every connection fares from now on, what is held back included.
    pub fn flow(&self, side: Side, flow: Flow) {
        self.shared.flows()[side as usize] = flow;
        self.shared.changed.notify_all();
    }

    /// Forgets what was said so far: a proxy that stands for long would fill the memory.
    pub fn forget(&self) {
        for connection in self.shared.lock().iter_mut() {
            (connection.client, connection.server) = (Vec::new(), Vec::new());
        }
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
        for side in [Side::Client, Side::Server] {
            self.flow(side, Flow::Passes);
        }
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr);
        self.cut();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flows(&self) -> MutexGuard<'_, [Flow; 2]> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How this direction fares, once it may go on.
    fn pass(&self, side: Side) -> Flow {
        let came = Instant::now();
        let mut flows = self.flows();
        loop {
            let wait = match flows[side as usize] {
                Flow::Late(by) => by.saturating_sub(came.elapsed()),
                Flow::Stuck => Duration::from_secs(3600),
                _ => Duration::ZERO,
            };
            if wait.is_zero() {
                return flows[side as usize];
            }
            flows = self.changed.wait_timeout(flows, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
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
        let mut passed = 0;
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
            let (said, cut) = match self.pass(side) {
                Flow::Lost => continue,
                Flow::CutAfter(left) => {
                    let left = left.saturating_sub(passed);
                    passed += n;
                    (&said[..left.min(n)], n > left)
                }
                Flow::Passes | Flow::Late(_) | Flow::Stuck => {
                    passed = 0;
                    (said, false)
                }
            };
            let written = to.write_all(said);
            if cut {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            }
            if cut || written.is_err() {
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
