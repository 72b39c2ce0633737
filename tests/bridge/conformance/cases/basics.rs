//! Every served endpoint once, as clients ask, and what becomes of the connection.

use super::{Case, PUB, bytes, case};
use crate::conformance::request::{get, post};

pub fn cases() -> Vec<Case> {
    vec![
        case("ping", get("/ping")),
        case("ping with a query", get("/ping?a=b")),
        case("ping with a query that cannot be read", get("/ping?%zz;")),
        case("ping with a body", get("/ping").body("abc")),
        case("ping with a large body held back", get("/ping").announcing(300_000)),
        case("ping over HTTP/1.0", get("/ping").http("1.0")),
        case("a publish", post(PUB).body("x")),
        case("a publish over HTTP/1.0", post(PUB).body("x").http("1.0")),
        case(
            "a publish over HTTP/1.0 that keeps the connection",
            post(PUB).body("x").http("1.0").header("Connection: keep-alive"),
        ),
        case("a publish over HTTP/1.0 without Host", post(PUB).body("x").http("1.0").without_host()),
        case("a publish that ends the connection", post(PUB).body("x").header("Connection: close")),
        case("a refusal that ends the connection", post(PUB).header("Connection: close")),
        case("a publish by nc, which ends its side", post(PUB).body("x")).half_closed(),
        case("a refusal to nc", post("/pub").body("x")).half_closed(),
        case("two requests by nc", post(PUB).body("x")).pipelined(&get("/ping")).half_closed(),
        case("three requests at once", post(PUB).body("x")).pipelined(&post(PUB)).pipelined(&get("/ping")),
        case("ten publishes at once", post(PUB).body("x")).then_nine_more(),
        case("a publish in three writes", post(PUB).announcing(6)).then("ab").then("cd").then("ef"),
        bytes("a head in two writes", "POST /pub?topic=t HTTP/1.1\r\nHo")
            .then("st: x\r\nContent-Length: 1\r\n\r\nx"),
        bytes("a publish with bare newlines", "POST /pub?topic=t HTTP/1.1\nHost: x\nContent-Length: 1\n\nx"),
        case("a body said to be gzip stays as it is", post(PUB).body("x").header("Content-Encoding: gzip")),
        case(
            "a form is no form",
            post("/pub").body("topic=t").header("Content-Type: application/x-www-form-urlencoded"),
        ),
        case(
            "what gnsq sends",
            post(PUB)
                .body("x")
                .header("Accept: application/vnd.nsq version=1.0")
                .header("Accept-Encoding: identity"),
        ),
        case(
            "what NsqSharp sends",
            post("/mpub?topic=t&binary=true").header("Expect: 100-continue").announcing(9),
        )
        .once_asked(b"\0\0\0\x01\0\0\0\x01x"),
        case(
            "a browser's preflight",
            crate::conformance::request::request("OPTIONS", PUB)
                .header("Origin: http://h")
                .header("Access-Control-Request-Method: POST"),
        ),
        case("a wish for h2c", post(PUB).body("x").headers(["Connection: Upgrade", "Upgrade: h2c"])),
        case("nsqd is not asked for compression", get("/ping").header("Accept-Encoding: gzip")),
        case("an empty name and no body", post("/pub?topic=")),
    ]
}

impl Case {
    fn then_nine_more(self) -> Self {
        (0..9).fold(self, |case, _| case.pipelined(&post(PUB).body("x")))
    }
}
