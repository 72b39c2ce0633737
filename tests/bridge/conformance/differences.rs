//! Differences that are meant.

use std::{fs, path::Path};

/// How a case is meant to differ. Both sides are summed up, so that nothing else can hide behind the difference.
#[derive(Debug, Clone)]
pub struct Differs {
    /// Its row in the table.
    pub key: &'static str,
    /// What nsqd does: the statuses and codes of its answers, then what becomes of the connection.
    pub nsqd: &'static str,
    /// What the gateway does.
    pub gateway: &'static str,
}

/// What is wrong with how a case differs, if anything; `found` sums both sides up.
pub fn wrong(
    declared: Option<&Differs>,
    alike: bool,
    found: impl FnOnce() -> (String, String),
) -> Option<String> {
    match declared {
        None => (!alike).then(|| "not the same".to_owned()),
        Some(differs) if alike => Some(format!("declared to differ ({}), and is the same", differs.key)),
        Some(differs) => {
            let (found, expected) = (found(), (differs.nsqd.to_owned(), differs.gateway.to_owned()));
            (found != expected).then(|| {
                format!("differs otherwise than declared ({}): {found:?}, not {expected:?}", differs.key)
            })
        }
    }
}

/// The keys in `docs/differences.md`, as often as they stand there.
pub fn explained() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/differences.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    for row in &rows {
        let whole = row.len() == 5 && row.iter().all(|cell| !cell.is_empty());
        assert!(whole, "not a key, a request, nsqd, the gateway and a reason: {row:?}");
    }
    rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect()
}
