//! Methods and paths.

use super::{Case, bytes, case};
use crate::conformance::request::{get, post, request};

const METHODS: &[&str] =
    &["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "FOO"];
const PATHS: &[&str] = &["/pub", "/mpub", "/ping", "/nope", "/PUB", "/ping/"];

/// Paths a POST may be redirected from, or served at.
const UNTIDY: &[&str] = &[
    "/pub/",
    "/PUB",
    "/Pub/",
    "//pub",
    "/pub//",
    "/x/../pub",
    "/./pub",
    "/%70ub",
    "/pu%62/",
    "/p%75B",
    "/pub%2f",
    "/%2fpub",
    "/pub%20",
    "/pub%ff",
    "/",
    "/a",
    "/..",
    "/../pub",
    "/pub/.",
    "/pub/..",
    "/pub/x",
    "/PUB/x",
    "/pub;a",
    "/x/..//PUB/",
    "/mpub/",
    "/MPUB",
    "/put",
    "/mput",
    "/pub+",
    "/pub%00",
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for method in METHODS {
        for path in PATHS {
            let case = case(format!("{method} {path}"), request(method, *path));
            cases.push(match (*method, *path) {
                ("GET", "/ping/") => case.differs("redirect-body", "301 open", "301 open"),
                _ => case,
            });
        }
    }
    cases.extend(
        UNTIDY
            .iter()
            .map(|path| case(format!("POST {path}?topic=t"), post(format!("{path}?topic=t")).body("x"))),
    );
    cases.extend([
        case("a redirect keeps the query", get("//ping?a=b")).differs(
            "redirect-body",
            "301 open",
            "301 open",
        ),
        case("a redirect keeps a query that cannot be read", post("/pub/?topic=%zz;").body("x")),
        case("a redirect of a path with a bad escape", post("/pub%zz?topic=t").body("x")).differs(
            "malformed",
            "400 closed",
            "400 closed",
        ),
        case("a target with scheme and host", post("http://h/pub?topic=t").body("x")),
        case("a target of scheme and host only", post("http://h").body("x")),
        case("OPTIONS *", request("OPTIONS", "*")).differs("asterisk", "200 open", "404 NOT_FOUND open"),
        case("POST *", post("*").body("x")).differs(
            "asterisk",
            "405 METHOD_NOT_ALLOWED open",
            "404 NOT_FOUND open",
        ),
        case("a target without a slash", post("pub?topic=t").body("x")).differs(
            "malformed",
            "400 closed",
            "400 closed",
        ),
        case("a target that is only a query", post("?topic=t").body("x")).differs(
            "malformed",
            "400 closed",
            "400 closed",
        ),
        bytes("no target", "GET  HTTP/1.1\r\nHost: x\r\n\r\n").differs(
            "malformed",
            "400 closed",
            "400 closed",
        ),
        bytes("a blank in the target", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n").differs(
            "malformed",
            "400 closed",
            "400 closed",
        ),
        case("a method in small letters", request("post", "/pub?topic=t").body("x")),
    ]);
    cases
}
