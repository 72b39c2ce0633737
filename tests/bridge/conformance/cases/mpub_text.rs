//! `POST /mpub`, one message a line.

use super::{Case, MAX_BODY, MAX_MSG, MPUB, case};
use crate::conformance::request::{encode_chunks, post};

pub fn cases() -> Vec<Case> {
    let line = [vec![b'a'; 1023], vec![b'\n']].concat();
    let full = line.repeat(MAX_BODY / 1024);
    let more = vec![b'a'; MAX_MSG + 1];
    let most = &more[1..];
    vec![
        case("three lines, one of them empty", post(MPUB).body("a\nb\r\n\nc")),
        case("a newline at the end", post(MPUB).body("a\nb\n")),
        case("an empty body", post(MPUB)),
        case("no body and no length", post(MPUB).raw("")),
        case("only newlines", post(MPUB).body("\n\n")),
        case("only a carriage return", post(MPUB).body("\r")),
        case("no topic", post("/mpub").body("a")),
        case("no topic and an empty body", post("/mpub")),
        case("a bad query", post("/mpub?%zz").body("a")),
        case("a bad name", post("/mpub?topic=a%20b").body("a")),
        case("defer is not looked at", post(format!("{MPUB}&defer=zz")).body("a")),
        case("too large, held back, and no topic", post("/mpub").announcing(MAX_BODY + 1)),
        case("too large and held back", post(MPUB).announcing(MAX_BODY + 1)),
        case(
            "too large, to a client that sends before it reads",
            post(MPUB).body([&full[..], b"a"].concat()),
        )
        .blindly(),
        case("the largest body", post(MPUB).body(&full)),
        case("the largest body in chunks", post(MPUB).chunks(vec![&line; MAX_BODY / 1024])),
        case("one byte more in chunks", post(MPUB).chunks([&full[..], b"a"])),
        case("much more in chunks", post(MPUB).chunks(vec![&line; 12_000])),
        case("the longest line", post(MPUB).body([b"a\n", most, b"\n"].concat())),
        case("the longest line at the end", post(MPUB).body([b"a\n", most].concat())),
        case("a longer line", post(MPUB).body([b"a\n", &more[..]].concat())),
        case("a longer line before others", post(MPUB).body([&more[..], b"\na"].concat())),
        case("a line that never ends, in chunks", post(MPUB).chunks(vec![most; 12])),
        case(
            "a longer line in a body too large, in chunks",
            post(MPUB).chunks([[&more[..], b"\n"].concat(), full.clone(), full.clone()]),
        ),
        case(
            "a longer line in chunks that stay away",
            post(MPUB).chunked(&encode_chunks([[&more[..], b"\n"].concat()])[..MAX_MSG + 11]),
        ),
    ]
}
