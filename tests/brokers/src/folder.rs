//! Temporary folders that go away with the process.
//!
//! Every server's folder lies in one folder of this process. A folder removes itself when dropped; the common one is
//! removed by a small shell that waits for this process to end, because statics are never dropped and a killed process
//! drops nothing. `NSQBRIDGE_BROKERS_KEEP=1` keeps them all, to read the servers' logs afterwards.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::cannot;
use crate::{Error, Result};

/// Servers take a moment to die and may still create files, hence the repeated attempts.
const REMOVE_AT_END: &str = r#"
while read -r _; do :; done
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$0" && exit; sleep 0.5; done
"#;

/// A folder of one server.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Creates an empty folder whose name starts with `label`.
    pub(crate) fn new(label: &str) -> Result<Folder> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = root()?.join(format!("{label}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&path).map_err(cannot("create", &path))?;
        Ok(Folder(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !keep() {
            // What resists now goes when the process ends.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn keep() -> bool {
    env::var_os("NSQBRIDGE_BROKERS_KEEP").is_some_and(|value| !value.is_empty() && value != "0")
}

/// The folder of this process, and the shell that removes it afterwards.
fn root() -> Result<&'static Path> {
    static ROOT: OnceLock<Result<(PathBuf, Option<Child>), String>> = OnceLock::new();
    match ROOT.get_or_init(|| create_root().map_err(|e| e.to_string())) {
        Ok((path, _)) => Ok(path),
        Err(reason) => Err(Error::new(reason.clone())),
    }
}

fn create_root() -> Result<(PathBuf, Option<Child>)> {
    // The time keeps apart two processes that had the same id.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let path = env::temp_dir().join(format!("nsqbridge-{}-{now}", process::id()));
    fs::create_dir_all(&path).map_err(cannot("create", &path))?;
    if keep() {
        return Ok((path, None));
    }
    let guard = Command::new("/bin/sh")
        .args(["-c", REMOVE_AT_END])
        .arg(&path)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(cannot("run", Path::new("/bin/sh")))?;
    Ok((path, Some(guard)))
}
