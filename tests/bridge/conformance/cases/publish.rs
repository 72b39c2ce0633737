//! `POST /pub`: sizes, and what is looked at first.

use super::{Case, MAX_MSG, PUB, case};
use crate::conformance::request::post;

pub fn cases() -> Vec<Case> {
    let (most, more) = (vec![b'a'; MAX_MSG], vec![b'a'; MAX_MSG + 1]);
    let all_bytes: Vec<u8> = (0..=255).collect();
    vec![
        case("every byte there is", post(PUB).body(all_bytes)),
        case("only a newline", post(PUB).body("\n")),
        case("only a zero", post(PUB).body("\0")),
        case("an empty body", post(PUB)),
        case("no body and no length", post(PUB).raw("")),
        case("an empty body and no topic", post("/pub")),
        case("an empty body and a bad query", post("/pub?%zz")),
        case("an empty body and a bad name", post("/pub?topic=%20")),
        case("the largest message", post(PUB).body(&most)),
        case("one byte more", post(PUB).body(&more)),
        case("one byte more, to a client that sends before it reads", post(PUB).body(&more)).blindly(),
        case("twice as much, to a client that sends before it reads", post(PUB).body(more.repeat(2)))
            .blindly(),
        case("five times as much", post(PUB).body(more.repeat(5))),
        case("one byte more and no topic", post("/pub").body(&more)),
        case("too large, and held back", post(PUB).announcing(2_000_000)),
        case("far too large, and held back", post(PUB).header("Content-Length: 9223372036854775807").raw("")),
        case("the largest message in one chunk", post(PUB).chunks([&most])),
        case("one byte more in one chunk", post(PUB).chunks([&more])),
        case("one byte more in two chunks", post(PUB).chunks([&most[..], b"a"])),
        case("four times as much in chunks", post(PUB).chunks([&most; 4])),
        case("four times as much in chunks and no topic", post("/pub").chunks([&most; 4])),
        case("a new topic", post("/pub?topic=conform.new").body("x")),
    ]
}
