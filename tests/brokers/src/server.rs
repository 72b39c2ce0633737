//! What all servers have in common: start until ready, stop, kill, freeze, start again.
//!
//! A [`Server`] owns its folder, its ports and its process. The concrete handles ([`Broker`](crate::Broker),
//! [`Nsqd`](crate::Nsqd), …) add their addresses and dereference to it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::folder::Folder;
use crate::ports::Ports;
use crate::process::{POLL, Process};
use crate::{Error, Result};

/// How long a server may take to become ready: boot takes seconds, but the machine may be busy with other tests.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long a server may take to end by itself: a RocketMQ 5 broker takes 17 seconds, 27 if asked to be graceful.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How often other ports are tried when a stranger took one between probing and binding.
const ATTEMPTS: usize = 3;

/// Says whether a server is ready, given what it has printed since this start.
pub(crate) type Ready = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// How to run a server once its folder and ports are known.
pub(crate) struct Launch {
    pub(crate) command: Command,
    pub(crate) ready: Ready,
}

/// A running, frozen or stopped server.
///
/// Dropping it kills the process and removes the folder. All methods may be called from any thread.
pub struct Server {
    title: String,
    // Before the folder: fields are dropped in this order, and a dying server still writes.
    process: Mutex<Option<Process>>,
    pid: AtomicU32,
    launch: Launch,
    ports: Ports,
    folder: Folder,
}

impl Server {
    /// Starts a server and waits until it is ready; `prepare` writes its files and says how to run it.
    pub(crate) fn start(title: &str, prepare: impl Fn(&Path, &Ports) -> Result<Launch>) -> Result<Server> {
        let mut attempt = 1;
        loop {
            let folder = Folder::new(title)?;
            let ports = Ports::claim()?;
            let launch = prepare(folder.path(), &ports)?;
            let process = Mutex::new(None);
            let server =
                Server { title: title.to_owned(), process, pid: AtomicU32::new(0), launch, ports, folder };
            match server.start_again() {
                Ok(()) => return Ok(server),
                Err(_) if attempt < ATTEMPTS && says_port_taken(&server.log_tail()) => attempt += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// Runs any program under supervision, in an empty folder, ready at once.
    ///
    /// `command` is told the folder and says what to run, for example one of NSQ's tools. Its output is in
    /// [`log`](Server::log).
    ///
    /// # Errors
    /// The folder or the process could not be made.
    pub fn run(title: &str, command: impl Fn(&Path) -> Command) -> Result<Server> {
        Server::start(title, |folder, _| Ok(Launch { command: command(folder), ready: Box::new(|_| true) }))
    }

    /// What this server is called in errors, such as `broker-a`.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// The process id of the server itself, as of its last start.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// The folder with its configuration, data and log; `ROCKETMQ_HOME` for RocketMQ.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file with everything it has printed, over all starts.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The last lines it has printed.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// Everything it has printed, over all starts.
    pub fn log_text(&self) -> String {
        read_from(&self.log(), 0)
    }

    /// Waits until it has ended by itself and returns its exit code: 128 + n if signal n ended it.
    ///
    /// # Errors
    /// It is still running after `limit`, or was stopped or killed before; the end of its log is in the text.
    pub fn wait(&self, limit: Duration) -> Result<i32> {
        let mut slot = self.lock();
        let Some(process) = slot.as_mut() else { return Err(self.error("was stopped already")) };
        process.wait(limit);
        process.exit_code().ok_or_else(|| self.error(&format!("did not end within {} s", limit.as_secs())))
    }

    /// Whether the process exists, frozen or not.
    pub fn is_running(&self) -> bool {
        self.lock().as_mut().is_some_and(|process| process.exit_code().is_none())
    }

    /// Asks it to end (SIGTERM, also when frozen) and waits until it is gone. A stopped server is left as it is.
    ///
    /// # Errors
    /// It was still there after 60 seconds; it is killed then.
    pub fn stop(&self) -> Result<()> {
        let mut slot = self.lock();
        let Some(mut process) = slot.take() else { return Ok(()) };
        if process.exit_code().is_some() {
            return Ok(());
        }
        process.signal("TERM")?;
        // A frozen process gets no signal but KILL until it goes on. It may be gone by now, which is as good.
        let _ = process.signal("CONT");
        if process.wait(STOP_LIMIT) {
            return Ok(());
        }
        Err(self.error(&format!("did not stop within {} s and was killed", STOP_LIMIT.as_secs())))
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// None at present.
    pub fn kill(&self) -> Result<()> {
        // Dropping a process kills it and waits.
        drop(self.lock().take());
        Ok(())
    }

    /// Freezes it (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Errors
    /// It is not running.
    pub fn pause(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// Lets a frozen server go on (SIGCONT).
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&self) -> Result<()> {
        self.signal("CONT")
    }

    /// Sends it the signal called `name`, such as `HUP`.
    ///
    /// # Errors
    /// It is not running.
    pub fn signal(&self, name: &str) -> Result<()> {
        match self.lock().as_mut() {
            Some(process) => process.signal(name).map_err(|e| Error::new(format!("{}: {e}", self.title))),
            None => Err(Error::new(format!("{} is not running", self.title))),
        }
    }

    /// Starts it again on the same ports with the same folder, and waits until it is ready.
    ///
    /// # Errors
    /// It is still running, one of its ports is taken, or it was not ready within three minutes; the end of its log is in
    /// the text.
    pub fn start_again(&self) -> Result<()> {
        let mut slot = self.lock();
        if slot.as_mut().is_some_and(|process| process.exit_code().is_none()) {
            return Err(Error::new(format!("{} is still running: stop or kill it first", self.title)));
        }
        let deadline = Instant::now() + BOOT_LIMIT;
        while !self.ports.all_free() {
            if Instant::now() >= deadline {
                return Err(self.error("found one of its ports taken: address already in use"));
            }
            thread::sleep(POLL);
        }
        let before = fs::metadata(self.log()).map_or(0, |file| file.len());
        let mut process = Process::spawn(&self.launch.command, &self.log())?;
        self.pid.store(process.pid(), Ordering::Relaxed);
        while !(self.launch.ready)(&read_from(&self.log(), before)) {
            if let Some(code) = process.exit_code() {
                return Err(self.error(&format!("ended with exit code {code} instead of getting ready")));
            }
            if Instant::now() >= deadline {
                return Err(self.error(&format!("was not ready within {} s", BOOT_LIMIT.as_secs())));
            }
            thread::sleep(POLL);
        }
        *slot = Some(process);
        Ok(())
    }

    /// The address of the port at `index` of its block.
    pub(crate) fn port_addr(&self, index: u16) -> SocketAddr {
        local(self.ports.get(index))
    }

    fn error(&self, what: &str) -> Error {
        Error::new(format!("{} {what}\n{}", self.title, self.log_tail()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        // A test that panicked in between leaves nothing half done.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `127.0.0.1:port`.
pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Whether something listens at `addr`.
pub(crate) fn listens(addr: SocketAddr) -> bool {
    TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok()
}

/// The end of a log, headed by its path so that a person can open the whole.
pub(crate) fn tail(log: &Path) -> String {
    const LINES: usize = 30;
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!("--- end of {}\n{}", log.display(), last.join("\n"))
}

fn read_from(log: &Path, offset: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// Java and Go word it differently, but both keep the system's text.
fn says_port_taken(log: &str) -> bool {
    log.to_ascii_lowercase().contains("address already in use")
}
