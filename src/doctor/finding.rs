//! What was found, and how it is shown.

use std::fmt::Write;

use serde::Serialize;

/// Makes a constant of each name, and `ALL` of them, so that none is used without being listed.
macro_rules! reasons {
    ($($constant:ident = $name:literal),* $(,)?) => {
        $(
            #[doc = concat!("`", $name, "`.")]
            pub const $constant: &str = $name;
        )*
        /// All of them.
        pub const ALL: &[&str] = &[$($constant),*];
    };
}
pub(crate) use reasons;

/// How bad it is. Ordered: worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// The migration must not go on so.
    Block,
    /// The bridge cannot do its work so.
    Fail,
    /// It can, with less than people may think they have.
    Warn,
    /// Good to know.
    Info,
    /// As it should be.
    Ok,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Block => "BLOCK",
            Severity::Fail => "FAIL",
            Severity::Warn => "WARN",
            Severity::Info => "INFO",
            Severity::Ok => "OK",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at.
    pub what: String,
    /// What it was looked at for; stable, for programs.
    pub check: &'static str,
    /// What was found, in plain words.
    pub finding: String,
    /// What to do about it; empty when nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
}

impl Finding {
    fn new(severity: Severity, what: &str, check: &'static str, finding: impl Into<String>) -> Self {
        Self { severity, what: what.to_owned(), check, finding: finding.into(), advice: String::new() }
    }

    pub(crate) fn ok(what: &str, check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(Severity::Ok, what, check, finding)
    }

    pub(crate) fn info(what: &str, check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(Severity::Info, what, check, finding)
    }

    pub(crate) fn warn(what: &str, check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(Severity::Warn, what, check, finding)
    }

    pub(crate) fn block(what: &str, check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(Severity::Block, what, check, finding)
    }

    pub(crate) fn fail(what: &str, check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(Severity::Fail, what, check, finding)
    }

    pub(crate) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..self }
    }
}

/// All findings, worst first.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The findings.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn new(mut findings: Vec<Finding>) -> Self {
        // Stable: within one severity the order of looking is kept.
        findings.sort_by_key(|finding| finding.severity);
        Self { findings }
    }

    /// Whether anything keeps the bridge from its work, or the migration from going on.
    #[must_use]
    pub fn blocks(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity <= Severity::Fail)
    }

    /// For programs.
    ///
    /// # Errors
    /// Never in fact: all keys are texts.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// For people: a row for each finding, below it what to do, and at the end how many there are of each.
    #[must_use]
    pub fn table(&self) -> String {
        format!(
            "{}\n{} failed, {} warnings, {} to know, {} as they should be",
            self.rows(),
            self.count(Severity::Fail),
            self.count(Severity::Warn),
            self.count(Severity::Info),
            self.count(Severity::Ok),
        )
    }

    /// How many findings are just so bad.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// A row for each finding, and below it what to do.
    #[must_use]
    pub fn rows(&self) -> String {
        let width = |of: fn(&Finding) -> usize| self.findings.iter().map(of).max().unwrap_or(0);
        let (what, check) =
            (width(|finding| finding.what.chars().count()), width(|finding| finding.check.len()));
        let mut table = format!("{:<7}{:<what$}  {:<check$}  FINDING\n", "LEVEL", "WHAT", "CHECK");
        for finding in &self.findings {
            let Finding { what: name, check: reason, finding: text, advice, severity } = finding;
            let _ = writeln!(table, "{:<7}{name:<what$}  {reason:<check$}  {text}", severity.word());
            if !advice.is_empty() {
                let _ = writeln!(table, "{:<7}{:<what$}  {:<check$}  → {advice}", "", "", "");
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_columns_align() {
        let report = Report::new(vec![
            Finding::ok("broker a", "BrokerReachable", "RocketMQ 5.5.0"),
            Finding::fail("name server x:1", "NameServerReachable", "refused").advise("start it"),
        ]);
        let expected = "\
LEVEL  WHAT             CHECK                FINDING
FAIL   name server x:1  NameServerReachable  refused
                                             → start it
OK     broker a         BrokerReachable      RocketMQ 5.5.0

1 failed, 0 warnings, 0 to know, 1 as they should be";
        assert_eq!(report.table(), expected);
        assert!(report.blocks());
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["findings"][0]["severity"], "FAIL");
        assert_eq!(json["findings"][1].get("advice"), None);
    }
}
