//! `GET /info`.

use super::{Case, case};
use crate::conformance::{
    comparison::Compared,
    request::{get, post, request},
};

pub fn cases() -> Vec<Case> {
    let keys = |case: Case| case.compared(Compared::JsonKeys);
    vec![
        keys(case("info", get("/info"))),
        keys(case("info with a query that cannot be read", get("/info?%zz;"))),
        keys(case("info with a body", get("/info").body("ignored"))),
        keys(case("info over HTTP/1.0", get("/info").http("1.0"))),
        case("POST /info", post("/info")),
        case("HEAD /info", request("HEAD", "/info")),
        case("OPTIONS /info", request("OPTIONS", "/info")),
        case("a slash behind it", get("/info/")).differs("redirect-body", "301 open", "301 open"),
    ]
}
