//! Which servers, at which versions: the only place where they are chosen.
//!
//! The pom and module files next to the sources name the same versions for Maven and Go; a test keeps them in step.
//! They are compiled in, so a program of this crate fetches exactly what it was built with.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The RocketMQ 5 release.
pub const ROCKETMQ_5: &str = "5.5.0";
/// The RocketMQ 4 release.
pub const ROCKETMQ_4: &str = "4.9.7";
/// The NSQ release.
pub const NSQ: &str = "1.3.0";

pub(crate) const NSQ_GO_MOD: &str = include_str!("../nsq/go.mod");
pub(crate) const NSQ_GO_SUM: &str = include_str!("../nsq/go.sum");

/// The two lines of RocketMQ in the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Line {
    /// RocketMQ 4, [`ROCKETMQ_4`].
    V4,
    /// RocketMQ 5, [`ROCKETMQ_5`].
    V5,
}

impl Line {
    /// Both lines, the newer one first.
    pub const ALL: [Line; 2] = [Line::V5, Line::V4];

    /// The pinned version of this line, such as `5.5.0`.
    pub fn version(self) -> &'static str {
        match self {
            Line::V5 => ROCKETMQ_5,
            Line::V4 => ROCKETMQ_4,
        }
    }

    pub(crate) fn pom(self) -> &'static str {
        match self {
            Line::V5 => include_str!("../rocketmq-5.5.0/pom.xml"),
            Line::V4 => include_str!("../rocketmq-4.9.7/pom.xml"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.version())
    }
}

impl FromStr for Line {
    type Err = Error;

    fn from_str(text: &str) -> Result<Line> {
        Line::ALL.into_iter().find(|line| line.version() == text).ok_or_else(|| {
            Error::new(format!("no RocketMQ version {text:?} here; there are {ROCKETMQ_5} and {ROCKETMQ_4}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poms_name_the_pinned_versions_and_no_others() {
        for line in Line::ALL {
            let rocketmq: Vec<&str> =
                line.pom().split("<groupId>org.apache.rocketmq</groupId>").skip(1).collect();
            assert!(!rocketmq.is_empty());
            for dependency in rocketmq {
                let version = dependency.split("<version>").nth(1).and_then(|rest| rest.split('<').next());
                assert_eq!(version, Some(line.version()));
            }
        }
    }

    #[test]
    fn go_mod_and_go_sum_name_the_pinned_nsq() {
        let pin = format!("github.com/nsqio/nsq v{NSQ}");
        assert!(NSQ_GO_MOD.contains(&format!("{pin} ")) || NSQ_GO_MOD.contains(&format!("{pin}\n")));
        assert!(NSQ_GO_SUM.contains(&format!("{pin} h1:")));
    }

    #[test]
    fn a_version_is_read_back_from_its_text() {
        for line in Line::ALL {
            assert_eq!(line.to_string().parse::<Line>().unwrap(), line);
        }
        assert!("5".parse::<Line>().is_err());
    }
}
