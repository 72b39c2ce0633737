//! `/config/:opt`.

use super::{Case, MAX_MSG, case};
use crate::conformance::{
    comparison::Compared,
    request::{get, post, request},
};

fn put(option: &str) -> crate::conformance::request::Request {
    request("PUT", format!("/config/{option}"))
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> =
        ["max_msg_size", "max_body_size", "max_req_timeout", "log_level", "nsqlookupd_tcp_addresses"]
            .iter()
            .map(|option| case(format!("GET {option}"), get(format!("/config/{option}"))))
            .collect();
    cases.extend(["broadcast_address", "http_address", "tcp_address"].iter().map(|option| {
        case(format!("GET {option}"), get(format!("/config/{option}"))).compared(Compared::Heads)
    }));
    cases.extend(
        ["mem_queue_size", "data_path", "msg_timeout", "e2e_processing_latency_percentiles"].iter().map(
            |option| {
                case(format!("GET {option}"), get(format!("/config/{option}"))).differs(
                    "other-options",
                    "200 open",
                    "400 INVALID_OPTION open",
                )
            },
        ),
    );
    cases.extend(
        ["nothing", "max-msg-size", "Max_Msg_Size", "max_msg_size%20", "log%5Flevel", "a/b", ""]
            .iter()
            .map(|option| case(format!("GET /config/{option}"), get(format!("/config/{option}")))),
    );
    cases.extend(
        ["info", "INFO", "Info"]
            .iter()
            .map(|level| case(format!("PUT log_level {level}"), put("log_level").body(level))),
    );
    cases.extend(
        ["verbose", "2", "\"info\"", "info\n", " "]
            .iter()
            .map(|level| case(format!("PUT log_level {level:?}"), put("log_level").body(level))),
    );
    cases.extend([
        case("PUT log_level, empty", put("log_level")),
        case("PUT log_level, far too large", put("log_level").body(vec![b'a'; MAX_MSG + 1])),
        case("PUT log_level in chunks", put("log_level").chunks(["in", "fo"])),
        case("PUT nsqlookupd_tcp_addresses", put("nsqlookupd_tcp_addresses").body("[]")).differs(
            "no-lookupd",
            "200 open",
            "400 INVALID_OPTION open",
        ),
        case("PUT nsqlookupd_tcp_addresses, no JSON", put("nsqlookupd_tcp_addresses").body("x")).differs(
            "no-lookupd",
            "400 INVALID_VALUE open",
            "400 INVALID_OPTION open",
        ),
        case(
            "PUT log_level with a body that ends too soon",
            put("log_level").header("Content-Length: 5").raw("in"),
        )
        .half_closed()
        .differs("says-close", "500 INTERNAL_ERROR closed", "500 INTERNAL_ERROR closed"),
        case("PUT of an option that cannot be set", put("max_msg_size").body("1")),
        case("PUT of an option that cannot be set, empty", put("max_msg_size")),
        case("PUT of nothing", put("nothing").body("1")),
        case("PUT of nothing, empty", put("nothing")),
        case("POST /config/log_level", post("/config/log_level").body("info")),
        case("OPTIONS /config/log_level", request("OPTIONS", "/config/log_level")),
        case("HEAD /config/log_level", request("HEAD", "/config/log_level")),
        case("GET /config", get("/config")),
        case("GET with a query that cannot be read", get("/config/log_level?%zz")),
    ]);
    cases
}
