//! How large a head may be. nsqd takes 1 MiB.

use super::{Case, PUB, case};
use crate::conformance::request::post;

pub fn cases() -> Vec<Case> {
    let publish = || post(PUB).body("x");
    vec![
        case("a header of 60,000 bytes", publish().header(format!("X: {}", "a".repeat(60_000)))),
        case("a target of 60,000 bytes", post(format!("{PUB}&x={}", "a".repeat(60_000))).body("x")),
        case("a header of 300,000 bytes", publish().header(format!("X: {}", "a".repeat(300_000)))).differs(
            "head-limit",
            "200 open",
            "431 closed",
        ),
        case("a header of 900,000 bytes", publish().header(format!("X: {}", "a".repeat(900_000)))).differs(
            "head-limit",
            "200 open",
            "431 closed",
        ),
        case("a target of 100,000 bytes", post(format!("{PUB}&x={}", "a".repeat(100_000))).body("x"))
            .differs("head-limit", "200 open", "414 closed"),
        case("150 headers", publish().headers((0..150).map(|n| format!("X-{n}: a")))),
        case("900 headers", publish().headers((0..900).map(|n| format!("X-{n}: a")))).differs(
            "head-limit",
            "200 open",
            "431 closed",
        ),
        case("2,000 headers", publish().headers((0..2000).map(|n| format!("X-{n}: a")))).differs(
            "head-limit",
            "200 open",
            "431 closed",
        ),
        case("5,000 headers", publish().headers((0..5000).map(|n| format!("X-{n}: {}", "a".repeat(20)))))
            .differs("head-limit", "200 open", "431 closed"),
        case("a header of two megabytes", publish().header(format!("X: {}", "a".repeat(2_000_000)))).differs(
            "head-limit",
            "431 closed",
            "431 closed",
        ),
    ]
}
