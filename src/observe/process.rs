//! What the system says of this process, and grants it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Bytes of memory held; `None` where the system does not say.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The name of this machine.
#[must_use]
pub fn host_name() -> String {
    let named = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    named
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Raises the limit of open files as far as this process may, and says where it is then; `None` without one.
///
/// Service managers start programs with 1,024 and allow far more. Go's programs take what is allowed, so whoever replaces one
/// must: past the limit no producer gets in, and no broker can be reached.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if raised.is_ok() { limit.maximum } else { limit.current }
}
