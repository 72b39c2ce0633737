//! Query strings and topic names, as `/pub` reads them.

use super::{Case, case};
use crate::conformance::request::post;

const QUERIES: &[&str] = &[
    "",
    "?",
    "?topic=",
    "?topic",
    "?topic=a%20b",
    "?topic=a+b",
    "?topic=a%2Bb",
    "?topic=%zz",
    "?topic=a%",
    "?topic=a%2",
    "?topic=a;b",
    "?topic=t&x=;",
    "?;",
    "?topic=t&",
    "?&&topic=t",
    "?topic=t&x",
    "?topic=t&=x",
    "?=&topic=t",
    "?topic=a=b",
    "?topic=t&topic=b%20",
    "?topic=b%20&topic=t",
    "?topic=t&topic=%zz",
    "?%=1&topic=t",
    "??topic=t",
    "?Topic=t",
    "?t%6fpic=t",
    "?topic=%74",
    "?topic=.",
    "?topic=..",
    "?topic=-",
    "?topic=_",
    "?topic=a.b-c_D9",
    "?topic=t%00",
    "?topic=t%0a",
    "?topic=%ff",
    "?topic=%C3%BC",
    "?topic=ü",
    "?topic=t&x=ü",
    "?topic=a/b",
    "?topic=a|b",
    "?topic=a:b",
    "?topic=a%23ephemeral",
    "?topic=%23ephemeral",
    "?topic=a%23Ephemeral",
    "?topic=a%23ephemeral%23ephemeral",
    "?topic=a%23",
    "?topic=TBW102",
    "?topic=rmq_sys_x",
    "?topic=%25RETRY%25g",
    "?topic=t&message=x",
    "?topic=t%26x=y",
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = QUERIES
        .iter()
        .map(|query| case(format!("POST /pub{query}"), post(format!("/pub{query}")).body("x")))
        .collect();
    let (most, most_ephemeral) = ("a".repeat(64), "a".repeat(54));
    cases.extend([
        case("a name of 64", post(format!("/pub?topic={most}")).body("x")),
        case("a name of 65", post(format!("/pub?topic={most}a")).body("x")),
        case("an ephemeral name of 64", post(format!("/pub?topic={most_ephemeral}%23ephemeral")).body("x")),
        case("an ephemeral name of 65", post(format!("/pub?topic={most_ephemeral}a%23ephemeral")).body("x")),
        case(
            "a raw #, and a name that is good with and without it",
            post("/pub?topic=a#ephemeral").body("x"),
        ),
        case("a raw #, and a name that is bad with it", post("/pub?topic=a#b").body("x")).differs(
            "fragment",
            "400 INVALID_TOPIC open",
            "200 open",
        ),
        case("a bad name with a raw quote", post("/pub?topic=a\"b").body("x")).differs(
            "raw-quotes",
            "400 INVALID_TOPIC open",
            "400 closed",
        ),
        case("a raw quote elsewhere", post("/pub?topic=t&x=\"").body("x")).differs(
            "raw-quotes",
            "200 open",
            "400 closed",
        ),
        case("a raw < elsewhere", post("/pub?topic=t&x=<").body("x")).differs(
            "raw-quotes",
            "200 open",
            "400 closed",
        ),
        case("a raw > elsewhere", post("/pub?topic=t&x=>").body("x")).differs(
            "raw-quotes",
            "200 open",
            "400 closed",
        ),
        case("raw braces and others elsewhere", post("/pub?topic=t&x={}[]|\\^`'").body("x")),
        case("a raw # in the path", post("/pub#a?topic=t").body("x")).differs(
            "fragment",
            "404 NOT_FOUND open",
            "400 MISSING_ARG_TOPIC open",
        ),
    ]);
    cases
}
