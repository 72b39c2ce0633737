//! A process that cannot outlive the one that started it.
//!
//! Each server runs below a small shell, its supervisor, whose standard input is a pipe held open by this process.
//! When this process ends, in whatever way (`kill -9`, panic, Ctrl-C, statics never dropped), the kernel closes the pipe
//! and the supervisor kills the server, also a frozen one.
//!
//! ```text
//!   test process ──pipe──▶ sh ──▶ server        the shell exits when the server is gone, with its exit code
//!                           └──▶ sh (reads the pipe; at its end: kill -KILL server)
//! ```
//!
//! Why not the kernel's parent-death signal: it fires when the spawning *thread* ends, and test threads end all the
//! time. The supervisor has a process group of its own, so that Ctrl-C reaches only the test process and the servers
//! go in this one way.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::cannot;
use crate::{Error, Result};

/// How often a wait looks again.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Background jobs of a shell without job control read from /dev/null, hence descriptor 3 for the pipe.
const SUPERVISOR: &str = r#"
exec 3<&0
log=$1; shift
"$@" 3<&- >>"$log" 2>&1 &
server=$!
(while read -r _ <&3; do :; done; kill -KILL "$server") >/dev/null &
watcher=$!
echo "$server"
wait "$server"; code=$?
kill -KILL "$watcher"
exit "$code"
"#;

/// A supervised process; dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub struct Process {
    supervisor: Child,
    pid: u32,
}

impl Process {
    /// Runs `command` with its output appended to the file `log`.
    ///
    /// Program, arguments, environment and working folder are taken from `command`; its standard streams are not.
    ///
    /// # Errors
    /// The shell could not be run. A program that cannot be executed is no error here: it exits with 126 or 127 and
    /// the reason is in the log.
    pub fn spawn(command: &Command, log: &Path) -> Result<Process> {
        let mut shell = Command::new("/bin/sh");
        shell.args([OsStr::new("-c"), OsStr::new(SUPERVISOR), OsStr::new("supervisor"), log.as_os_str()]);
        shell.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            shell.current_dir(folder);
        }
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut supervisor = shell.spawn().map_err(cannot("run", Path::new("/bin/sh")))?;

        let mut line = String::new();
        if let Some(stdout) = supervisor.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(cannot("hear from", Path::new("/bin/sh")))?;
        }
        match line.trim().parse() {
            Ok(pid) => Ok(Process { supervisor, pid }),
            Err(_) => Err(Error::new(format!("the supervising shell said {line:?} instead of a process id"))),
        }
    }

    /// The process id of the server itself, not of its supervisor.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends the signal called `name`, such as `TERM`.
    ///
    /// # Errors
    /// The process is gone, or the signal could not be sent.
    pub fn signal(&mut self, name: &str) -> Result<()> {
        if let Some(code) = self.exit_code() {
            return Err(Error::new(format!("process {} is gone, with exit code {code}", self.pid)));
        }
        let sent = Command::new("/bin/sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", name, &self.pid.to_string()])
            .status()
            .map_err(cannot("run", Path::new("/bin/sh")))?;
        if sent.success() {
            Ok(())
        } else {
            Err(Error::new(format!("cannot send {name} to process {}", self.pid)))
        }
    }

    /// The exit code once the process is gone: 128 + n if signal n ended it.
    pub fn exit_code(&mut self) -> Option<i32> {
        // The shell exits only after it has reaped the server, so its end is the proof that the server is gone.
        self.supervisor.try_wait().ok().flatten().map(|status| status.code().unwrap_or(-1))
    }

    /// Waits until the process is gone, and says whether it is.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if self.exit_code().is_some() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        // A zombie supervisor is all that a failure here would leave.
        let _ = self.supervisor.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::folder::Folder;

    fn sleeper(folder: &Folder) -> Process {
        Process::spawn(Command::new("sleep").arg("600"), &folder.path().join("log")).unwrap()
    }

    fn alive(pid: u32) -> bool {
        fs::exists(format!("/proc/{pid}")).unwrap()
    }

    #[test]
    fn a_dropped_process_is_gone_also_when_frozen() {
        let folder = Folder::new("process").unwrap();
        let mut process = sleeper(&folder);
        let pid = process.pid();
        // The shell forks before it executes, so for a moment the process is still called sh.
        while !fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("sleep") {
            thread::sleep(POLL);
        }
        process.signal("STOP").unwrap();
        drop(process);
        assert!(!alive(pid));
    }

    #[test]
    fn exit_codes_and_output_come_through() {
        let folder = Folder::new("process").unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo \"$GREETING\"; pwd >&2; exit 7"]).env("GREETING", "hello").current_dir("/");
        let mut process = Process::spawn(&command, &log).unwrap();
        assert!(process.wait(Duration::from_secs(10)));
        assert_eq!(process.exit_code(), Some(7));
        assert!(process.signal("TERM").is_err());
        assert_eq!(fs::read_to_string(&log).unwrap(), "hello\n/\n");
    }

    #[test]
    fn a_signal_that_ends_the_process_shows_in_its_code() {
        let folder = Folder::new("process").unwrap();
        let mut process = sleeper(&folder);
        process.signal("TERM").unwrap();
        assert!(process.wait(Duration::from_secs(10)));
        assert_eq!(process.exit_code(), Some(128 + 15));
    }
}
