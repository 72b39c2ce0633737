//! Finds the tools that fetch and run the servers: Java, Maven, Go.
//!
//! They are found before any work begins, and everything missing is reported at once, with the accepted version and
//! the usual way to install it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// A tool this crate cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The Java runtime: runs RocketMQ, and Maven.
    Java,
    /// Maven: fetches the RocketMQ jars.
    Maven,
    /// The Go toolchain: fetches and compiles the NSQ programs.
    Go,
}

struct Facts {
    program: &'static str,
    version_flag: &'static str,
    /// What stands right before the version in the tool's answer.
    before_version: &'static str,
    least: (u32, u32),
    named: &'static str,
    install: &'static str,
}

impl Tool {
    fn facts(self) -> Facts {
        match self {
            Tool::Java => Facts {
                program: "java",
                version_flag: "-version",
                before_version: "version \"",
                least: (17, 0),
                named: "Java 17 or newer",
                install: "apt-get install openjdk-17-jdk-headless, or set JAVA_HOME",
            },
            Tool::Maven => Facts {
                program: "mvn",
                version_flag: "-v",
                before_version: "Apache Maven ",
                least: (3, 6),
                named: "Maven 3.6 or newer",
                install: "apt-get install maven",
            },
            Tool::Go => Facts {
                program: "go",
                version_flag: "version",
                before_version: "go version go",
                // The first release that knows `tool` lines in go.mod.
                least: (1, 24),
                named: "Go 1.24 or newer",
                install: "apt-get install golang-go where that is new enough, else the archive from go.dev/dl",
            },
        }
    }

    /// The program's path: `JAVA_HOME` for Java if set, else the first hit in `PATH`.
    ///
    /// # Errors
    /// The tool is missing or too old; the text says how to install it.
    pub fn find(self) -> Result<PathBuf> {
        let facts = self.facts();
        let Some(path) = self.locate(facts.program) else {
            return Err(Error::new(format!(
                "{} is needed and `{}` was not found: {}",
                facts.named, facts.program, facts.install
            )));
        };
        let answer = ask(&path, facts.version_flag);
        match version_after(&answer, facts.before_version) {
            Some(version) if version >= facts.least => Ok(path),
            Some((major, minor)) => Err(Error::new(format!(
                "{} is needed and {} is {major}.{minor}: {}",
                facts.named,
                path.display(),
                facts.install
            ))),
            None => Err(Error::new(format!(
                "{} is needed and `{} {}` did not tell its version: {}",
                facts.named,
                path.display(),
                facts.version_flag,
                answer.trim()
            ))),
        }
    }

    fn locate(self, program: &str) -> Option<PathBuf> {
        let home =
            env::var_os("JAVA_HOME").filter(|_| self == Tool::Java).map(|home| Path::new(&home).join("bin"));
        let path = env::var_os("PATH").unwrap_or_default();
        home.into_iter()
            .chain(env::split_paths(&path).filter(|folder| folder.is_absolute()))
            .map(|folder| folder.join(program))
            .find(|candidate| candidate.is_file())
    }
}

/// Checks several tools and reports all that is wrong with them.
///
/// # Errors
/// One line for each tool that is missing or too old.
pub fn check(tools: &[Tool]) -> Result<()> {
    let problems: Vec<String> =
        tools.iter().filter_map(|tool| tool.find().err()).map(|problem| problem.to_string()).collect();
    if problems.is_empty() { Ok(()) } else { Err(Error::new(problems.join("\n"))) }
}

/// Standard output and error together: Java prints its version on the latter.
fn ask(program: &Path, flag: &str) -> String {
    match Command::new(program).arg(flag).stdin(Stdio::null()).output() {
        Ok(out) => {
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
        }
        Err(e) => e.to_string(),
    }
}

fn version_after(answer: &str, marker: &str) -> Option<(u32, u32)> {
    let (_, rest) = answer.split_once(marker)?;
    let version = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut numbers = version.split('.').map(str::parse);
    let major = numbers.next()?.ok()?;
    Some((major, numbers.next().and_then(|minor| minor.ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_tools_print() {
        let java = "Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version \"17.0.15\" 2025-04-15\n";
        assert_eq!(version_after(java, Tool::Java.facts().before_version), Some((17, 0)));
        assert_eq!(version_after("openjdk version \"21\" 2023", "version \""), Some((21, 0)));
        assert_eq!(version_after("java version \"1.8.0_302\"", "version \""), Some((1, 8)));
        let maven = "\u{1b}[1mApache Maven 3.8.7\u{1b}[m\nMaven home: /usr/share/maven\n";
        assert_eq!(version_after(maven, Tool::Maven.facts().before_version), Some((3, 8)));
        assert_eq!(
            version_after("go version go1.26.8 linux/amd64", Tool::Go.facts().before_version),
            Some((1, 26))
        );
        assert_eq!(version_after("go version devel", Tool::Go.facts().before_version), None);
    }
}
