//! What errors and logs carry of a peer's words: enough to know them again, too little to fill a log, and nothing that ends a
//! line of it or steers a terminal.

/// More than any error of a real nsqd or broker has to say.
const MAX_CHARACTERS: usize = 500;

/// The beginning of a text, with control characters escaped.
#[must_use]
pub fn excerpt(text: &str) -> String {
    let mut excerpt = String::new();
    for (n, character) in text.chars().enumerate() {
        if n == MAX_CHARACTERS {
            excerpt.push('…');
            break;
        }
        if character.is_control() {
            excerpt.extend(character.escape_default());
        } else {
            excerpt.push(character);
        }
    }
    excerpt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_can_neither_fill_a_log_nor_forge_a_line_of_it() {
        assert_eq!(excerpt("topic[t] not exist, \"apply\" ü"), "topic[t] not exist, \"apply\" ü");
        assert_eq!(excerpt("x\nERROR \u{1b}[2J\u{9b}"), "x\\nERROR \\u{1b}[2J\\u{9b}");
        assert_eq!(excerpt(&"ä".repeat(501)), "ä".repeat(500) + "…");
        assert_eq!(excerpt(&"ä".repeat(500)), "ä".repeat(500));
    }
}
