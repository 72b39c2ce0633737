//! Heads that are unusual, wrong, or no HTTP at all.

use super::{Case, PUB, bytes, case};
use crate::conformance::request::{get, post};

pub fn cases() -> Vec<Case> {
    let publish = || post(PUB).body("x");
    let malformed = |case: Case| case.differs("malformed", "400 closed", "400 closed");
    vec![
        malformed(case("no host", publish().without_host())),
        malformed(case("two hosts", publish().header("Host: y"))),
        case("a host with a blank", publish().without_host().header("Host: a b")).differs(
            "odd-host",
            "400 closed",
            "200 open",
        ),
        case("an empty host", publish().without_host().header("Host: ")),
        malformed(case("a header's name with a blank", publish().header("X y: a"))),
        malformed(case("a blank before the colon", publish().header("X : a"))),
        malformed(case("a header without a colon", publish().header("X"))),
        malformed(case("a header without a name", publish().header(": a"))),
        case("a header without a value", publish().header("X:")),
        case("a header that is not ASCII", publish().header("X: ü")),
        malformed(case("a header with a zero", publish().header("X: a\0b"))),
        case("a folded header", publish().headers(["X: a", " b"])).differs(
            "folded-header",
            "200 open",
            "400 closed",
        ),
        case("header names in any case", post(PUB).raw("x").header("cOnTeNt-LeNgTh: 1")),
        case("two hundred headers", publish().headers((0..200).map(|n| format!("X-{n}: a")))),
        case("HTTP/2.0", publish().http("2.0")).differs("http-version", "505 closed", "400 closed"),
        case("HTTP/1.2", publish().http("1.2")).differs("http-version", "200 open", "400 closed"),
        case("HTTP/0.9", get("/ping").http("0.9")).differs("http-version", "505 closed", "400 closed"),
        malformed(bytes("no version", "GET /ping\r\n\r\n")),
        malformed(bytes("a version that is none", "GET /ping HTTX/1.1\r\nHost: x\r\n\r\n")),
        bytes("an empty line first", [b"\r\n", &publish().bytes()[..]].concat()).differs(
            "empty-line",
            "400 closed",
            "200 open",
        ),
        bytes("nsqd's TCP protocol", "  V2").differs("not-http", "silent", "400 closed"),
        bytes("TLS", b"\x16\x03\x01\x02\x00\x01\x00").differs("not-http", "silent", "400 closed"),
        malformed(bytes("noise, and an end of a head", "abc\r\n\r\n")),
        bytes("h2 with prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").differs(
            "http-version",
            "405 METHOD_NOT_ALLOWED closed",
            "closed",
        ),
        bytes("a head that ends too soon", "GET /ping HTTP/1.1\r\nHost").half_closed().differs(
            "half-head",
            "400 closed",
            "closed",
        ),
        bytes("nothing, and an end", "").half_closed(),
    ]
}
