//! `Expect: 100-continue`: .NET sends it on every POST, curl with large bodies.

use super::{Case, MAX_BODY, PUB, case};
use crate::conformance::request::{Request, encode_chunks, post};

fn expecting(target: &str) -> Request {
    post(target).header("Expect: 100-continue")
}

pub fn cases() -> Vec<Case> {
    vec![
        case("a publish", expecting(PUB).announcing(2)).once_asked("ab"),
        case("a batch", expecting("/mpub?topic=t").announcing(3)).once_asked("a\nb"),
        case("100-Continue in capitals", post(PUB).header("Expect: 100-Continue").announcing(2))
            .once_asked("ab"),
        case("chunks", expecting(PUB).header("Transfer-Encoding: chunked").raw(""))
            .once_asked(encode_chunks(["ab"])),
        case("over HTTP/1.0 nothing is asked", expecting(PUB).announcing(2).http("1.0")).then("ab"),
        case("an empty body", expecting(PUB)),
        case("a body that comes unasked", expecting(PUB).body("ab")),
        case("a message too large", expecting(PUB).announcing(2_000_000)).once_asked("never"),
        case("a batch too large", expecting("/mpub?topic=t").announcing(MAX_BODY + 1)).once_asked("never"),
        case("no topic for /pub is found after the body", expecting("/pub").announcing(2)).once_asked("ab"),
        case("no topic for /mpub is found before", expecting("/mpub").announcing(2))
            .once_asked("never")
            .differs("unasked", "400 MISSING_ARG_TOPIC silent", "400 MISSING_ARG_TOPIC closed"),
        case("nowhere", expecting("/nope").announcing(2)).once_asked("never").differs(
            "unasked",
            "404 NOT_FOUND silent",
            "404 NOT_FOUND closed",
        ),
        case("a refused body that comes unasked", expecting("/mpub").body("ab")),
        case("another expectation", post(PUB).header("Expect: x").announcing(2)).then("ab"),
    ]
}
