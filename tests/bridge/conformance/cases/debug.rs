//! `/debug/*`: the insides of a Go program.

use super::{Case, case};
use crate::conformance::request::{get, post, request};

pub fn cases() -> Vec<Case> {
    let insides = |case: Case, nsqd| case.differs("debug", nsqd, "404 NOT_FOUND open");
    vec![
        insides(case("pprof", get("/debug/pprof/")), "200 open"),
        insides(case("the command line", get("/debug/pprof/cmdline")), "200 open"),
        insides(case("goroutines", get("/debug/pprof/goroutine")), "200 open"),
        insides(case("a symbol", post("/debug/pprof/symbol")), "200 open"),
        insides(
            case("the rate of block profiles", request("PUT", "/debug/setblockrate?rate=0")),
            "500 INTERNAL_ERROR open",
        ),
        insides(case("freeing memory", post("/debug/freememory")), "500 INTERNAL_ERROR open"),
        insides(case("freeing memory with GET", get("/debug/freememory")), "405 METHOD_NOT_ALLOWED open"),
        insides(case("pprof without its slash", get("/debug/pprof")), "301 open"),
        case("nothing", get("/debug/nothing")),
        case("nothing more", get("/debug")),
    ]
}
