//! `GET /stats`: producers poll it for back-pressure, and tools for everything.

use super::{Case, case};
use crate::conformance::{
    comparison::Compared,
    request::{get, post, request},
};

/// Every one with a topic that has been published to, and one that has not.
const JSON: &[&str] = &[
    "?format=json&topic=conform.stats",
    "?format=json&topic=conform.stats&include_clients=false",
    "?format=json&topic=conform.stats&include_clients=0&include_mem=0",
    "?format=json&topic=conform.stats&include_mem=false",
    "?format=json&topic=conform.stats&include_mem=true",
    "?format=json&topic=conform.stats&include_mem=x&include_clients=x",
    "?format=json&topic=conform.stats&channel=c",
    "?format=json&topic=conform.stats&channel=",
    "?format=json&topic=conform.nothing",
    "?format=json&topic=a%20b",
    "?format=json&topic=conform.stats&topic=conform.nothing",
];
const TEXT: &[&str] = &[
    "?topic=conform.stats",
    "?topic=conform.nothing",
    "?format=text&topic=conform.stats",
    "?format=JSON&topic=conform.stats",
    "?format=&topic=conform.stats",
    "?topic=conform.stats&include_mem=false",
    "?topic=conform.stats&include_clients=false",
    "?topic=conform.stats&channel=c",
];

/// Before anything is published.
pub fn of_nothing() -> Vec<Case> {
    vec![
        case("JSON", get("/stats?format=json")).compared(Compared::JsonKeys),
        case("text", get("/stats")).compared(Compared::Words),
    ]
}

/// Of everything, once two topics are published to. The words of the text show the order.
pub fn of_two_topics() -> Vec<Case> {
    let of = |name, request| case(name, request).given("second").given("first");
    vec![
        of("JSON", get("/stats?format=json")).compared(Compared::JsonKeys),
        of("text", get("/stats")).compared(Compared::Words),
    ]
}

pub fn cases() -> Vec<Case> {
    let of = |query: &&str, compared| {
        case(format!("GET /stats{query}"), get(format!("/stats{query}")))
            .given("conform.stats")
            .compared(compared)
    };
    let mut cases: Vec<Case> = JSON.iter().map(|query| of(query, Compared::JsonKeys)).collect();
    cases.extend(TEXT.iter().map(|query| of(query, Compared::Words)));
    cases.extend([
        case("a query that cannot be read", get("/stats?%zz")),
        case("a semicolon", get("/stats?format=json;topic=t")),
        of(&"?format=json&topic=conform.stats&x=y", Compared::JsonKeys)
            .then(get("/ping").bytes())
            .methods(&["GET"; 2]),
        case("with a body", get("/stats?format=json&topic=conform.nothing").body("ignored"))
            .compared(Compared::JsonKeys),
        case("with a body that ends too soon", get("/stats?format=json").announcing(5)).half_closed(),
        case("over HTTP/1.0", get("/stats?format=json&topic=conform.nothing").http("1.0"))
            .compared(Compared::JsonKeys),
        case("POST /stats", post("/stats")),
        case("HEAD /stats", request("HEAD", "/stats")),
        case("OPTIONS /stats", request("OPTIONS", "/stats")),
        case("a slash behind it", get("/stats/?format=json")).differs(
            "redirect-body",
            "301 open",
            "301 open",
        ),
    ]);
    cases
}
