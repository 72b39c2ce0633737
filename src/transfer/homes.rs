//! Which nsqds a topic's messages may go to.
//!
//! Given nsqds are all of them the topic's. Of those that nsqlookupds list, it is those that have the topic, and all of them only for a
//! topic that none has ever had: an nsqd that is restarted, or whose nsqlookupd is, is not listed for a while, and would come back to a
//! topic that has been created on every other nsqd meanwhile, for good, with messages that consumers of the one it had never see.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::fleet::{Seen, View};
use crate::{
    excerpt::excerpt,
    nsq::{address::HttpAddress, names::TopicName},
};

/// So many nsqds are written down: a few are enough to know that there are some.
const MOST: usize = 64;

/// What is known of where a topic lives.
#[derive(Debug)]
pub(super) struct Homes {
    /// All nsqds are the topic's.
    given: bool,
    /// Every nsqd that was seen to have it, or that a queue's record names.
    had: BTreeSet<HttpAddress>,
    /// Whether a record was read.
    told: bool,
    /// None of them may be used now.
    away: bool,
}

impl Homes {
    pub(super) fn new(given: bool) -> Self {
        Self { given, had: BTreeSet::new(), told: false, away: false }
    }

    /// Takes note of a record that was read, and of the nsqds it names; whether it is the first.
    pub(super) fn told<'a>(&mut self, nsqds: impl Iterator<Item = &'a HttpAddress>) -> bool {
        self.had.extend(nsqds.cloned());
        !std::mem::replace(&mut self.told, true)
    }

    /// The nsqds its messages may go to by this view.
    pub(super) fn of<'a>(&mut self, view: &'a View, topic: &TopicName) -> Vec<&'a Seen> {
        let may: Vec<&Seen> = view.nsqds.values().filter(|seen| !seen.tombstoned.contains(topic)).collect();
        if self.given {
            return may;
        }
        let have = |seen: &&&Seen| seen.registered.contains(topic);
        let having: Vec<&Seen> = may.iter().filter(have).copied().collect();
        if !having.is_empty() {
            for seen in &having {
                if !self.had.contains(seen.nsqd.address()) {
                    self.had.insert(seen.nsqd.address().clone());
                }
            }
            if std::mem::take(&mut self.away) {
                info!(%topic, "an nsqd has the topic again");
            }
            return having;
        }
        if self.had.is_empty() {
            return if self.told { may } else { Vec::new() };
        }
        // One that came up empty is made ready again.
        let back: Vec<&Seen> =
            may.into_iter().filter(|seen| self.had.contains(seen.nsqd.address())).collect();
        let away = back.is_empty();
        if away && !self.away {
            warn!(%topic, "waiting: {}", self.missing());
        }
        self.away = away;
        back
    }

    /// The nsqds that have had it, not too many of them.
    pub(super) fn had(&self) -> BTreeSet<HttpAddress> {
        self.had.iter().take(MOST).cloned().collect()
    }

    /// Whether none of its nsqds may be used now.
    pub(super) fn are_away(&self) -> bool {
        self.away
    }

    /// Why no nsqd is known.
    pub(super) fn why_none(&self) -> String {
        if self.away { self.missing() } else { "no nsqd is known".to_owned() }
    }

    fn missing(&self) -> String {
        let had: Vec<&str> = self.had.iter().map(HttpAddress::as_str).collect();
        format!(
            "none of the nsqds that had the topic may be used now (no nsqlookupd lists them, or they are tombstoned): {}. If another is to \
             take their place, create the topic on it",
            excerpt(&had.join(", "))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nsq::nsqd::Nsqd;

    fn topic() -> TopicName {
        "t".parse().unwrap()
    }

    fn address(port: u16) -> HttpAddress {
        HttpAddress::new("nsqd", port)
    }

    /// What nsqlookupds list: each nsqd, and whether it has the topic.
    fn listing(nsqds: &[(u16, bool)]) -> View {
        let seen = |&(port, has): &(u16, bool)| {
            let registered = has.then(topic).into_iter().collect();
            let (nsqd, process) = (Nsqd::new(address(port)), Err("not asked yet".to_owned()));
            (address(port), Seen { nsqd, registered, tombstoned: BTreeSet::new(), process })
        };
        View { nsqds: nsqds.iter().map(seen).collect(), ..View::default() }
    }

    fn go(homes: &mut Homes, nsqds: &[(u16, bool)]) -> Vec<HttpAddress> {
        let view = listing(nsqds);
        homes.of(&view, &topic()).into_iter().map(|seen| seen.nsqd.address().clone()).collect()
    }

    #[test]
    fn a_topic_whose_nsqds_are_not_listed_for_a_while_goes_to_no_other() {
        let mut homes = Homes::new(false);
        homes.told([].iter());
        assert_eq!(go(&mut homes, &[(1, true), (2, false)]), [address(1)]);
        assert!(go(&mut homes, &[(2, false)]).is_empty(), "the nsqd was killed, or its nsqlookupd was");
        assert!(homes.why_none().contains("nsqd:1"), "{}", homes.why_none());
        assert_eq!(go(&mut homes, &[(1, false), (2, false)]), [address(1)], "it came up empty");
        assert!(go(&mut homes, &[]).is_empty());
        // An operator says that another takes its place.
        assert_eq!(go(&mut homes, &[(2, true), (3, false)]), [address(2)]);
        assert!(go(&mut homes, &[(3, false)]).is_empty());
        // Both of them lost what they had.
        assert_eq!(go(&mut homes, &[(1, false), (2, false), (3, false)]), [address(1), address(2)]);
    }

    #[test]
    fn a_topic_no_nsqd_ever_had_goes_to_all_of_them_once_the_record_was_read() {
        let mut homes = Homes::new(false);
        assert!(go(&mut homes, &[(1, false), (2, false)]).is_empty(), "the record may name one");
        assert!(homes.told([].iter()));
        assert_eq!(go(&mut homes, &[(1, false), (2, false)]), [address(1), address(2)]);
    }

    #[test]
    fn what_the_record_names_counts_as_if_it_had_been_seen() {
        let mut homes = Homes::new(false);
        assert!(homes.told([address(1)].iter()));
        assert!(!homes.told([address(2)].iter()), "another queue's");
        assert!(go(&mut homes, &[(3, false)]).is_empty());
        assert_eq!(go(&mut homes, &[(2, false), (3, false)]), [address(2)]);
        assert_eq!(go(&mut homes, &[(3, true)]), [address(3)]);
        assert_eq!(go(&mut homes, &[(1, false), (4, false)]), [address(1)]);
    }

    #[test]
    fn given_nsqds_are_all_the_topics() {
        let mut homes = Homes::new(true);
        homes.told([address(9)].iter());
        assert_eq!(go(&mut homes, &[(1, false), (2, false)]), [address(1), address(2)]);
    }
}
