//! What is known of a consumer by the name of its library.
//!
//! nsqd itself hands a message out again for ever. Some libraries give up after a number of attempts and finish it, which loses it.

/// What a library does unless its program says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Library {
    /// Its name, as it stands in a user agent.
    name: &'static str,
    /// After how many attempts it finishes a message unhandled.
    pub(super) drops_after: Option<u32>,
}

const LIBRARIES: &[Library] = &[
    Library { name: "go-nsq", drops_after: Some(5) },
    Library { name: "pynsq", drops_after: Some(5) },
    Library { name: "nsqjs", drops_after: None },
    Library { name: "nsq-ruby", drops_after: None },
];

/// The library a user agent names.
pub(super) fn library(user_agent: &str) -> Option<Library> {
    let named =
        |library: &&Library| user_agent.split([' ', '/']).any(|word| word.eq_ignore_ascii_case(library.name));
    LIBRARIES.iter().find(named).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_their_user_agents() {
        let drops = |agent: &str| library(agent).map(|library| library.drops_after);
        for agent in ["go-nsq/1.1.0", "nsq_to_file/1.3.0 go-nsq/1.1.0", "pynsq/0.9.1"] {
            assert_eq!(drops(agent), Some(Some(5)), "{agent}");
        }
        assert_eq!(drops("nsqjs/0.13.0"), Some(None));
        for agent in ["", "my-go-nsq-like/1", "own"] {
            assert_eq!(drops(agent), None, "{agent}");
        }
    }
}
