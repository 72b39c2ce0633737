//! Limits that are not the defaults: messages of 100 bytes, bodies of 500, a `defer` of a second, and five seconds for a body.

use super::{BINARY, Case, MPUB, PUB, case};
use crate::conformance::request::post;

pub fn cases() -> Vec<Case> {
    let of = |bytes: usize| vec![b'a'; bytes];
    let lines = |bytes: usize| [of(99), vec![b'\n']].concat().repeat(6)[..bytes].to_vec();
    let count = |count: u32, size: usize| [count.to_be_bytes().to_vec(), of(size)].concat();
    let one =
        |size: u32| [1u32.to_be_bytes().to_vec(), size.to_be_bytes().to_vec(), of(size as usize)].concat();
    vec![
        case("the largest message", post(PUB).body(of(100))),
        case("one byte more", post(PUB).body(of(101))),
        case("one byte more, in chunks", post(PUB).chunks([of(101)])),
        case("one byte more, as the only one of its chunk", post(PUB).chunks([of(100), of(1)])),
        case("the longest line", post(MPUB).body(of(100))),
        case("a longer line", post(MPUB).body(of(101))),
        case("the largest body", post(MPUB).body(lines(500))),
        case("a larger body", post(MPUB).body(lines(501))),
        case("the largest body, in chunks", post(MPUB).chunks([lines(500)])),
        case("a larger body, in chunks", post(MPUB).chunks([lines(501)])),
        case(
            "a longer line at the end of a larger body, in chunks",
            post(MPUB).chunks([lines(450), of(101)]),
        ),
        case(
            "a longer line at the start of a larger body, in chunks",
            post(MPUB).chunks([of(101), lines(450)]),
        ),
        case("the largest binary message", post(BINARY).body(one(100))),
        case("a larger binary message", post(BINARY).body(one(101))),
        case("the largest count", post(BINARY).body(count(99, 0))),
        case("a larger count", post(BINARY).body(count(100, 0))),
        case("a larger binary body", post(BINARY).body(count(1, 497))),
        case("the longest defer", post(format!("{PUB}&defer=1000")).body("x")),
        case("a longer defer", post(format!("{PUB}&defer=1001")).body("x")),
        case("a body that does not come in time", post(PUB).announcing(5)).then("ab").differs(
            "body-late",
            "silent",
            "500 INTERNAL_ERROR closed",
        ),
    ]
}
