//! `POST /channel/*`.

use super::{Case, case};
use crate::conformance::request::{get, post, request};

const ACTIONS: &[&str] = &["create", "delete", "empty", "pause", "unpause"];
const ARGUMENTS: &[&str] = &[
    "",
    "?%zz",
    "?topic=",
    "?topic=a%20b",
    "?topic=a%20b&channel=c",
    "?channel=c",
    "?topic=conform.unknown",
    "?topic=conform.unknown&channel=",
    "?topic=conform.unknown&channel=a%20b",
    "?topic=conform.unknown&channel=c",
    "?topic=conform.unknown&channel=c;",
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for action in ACTIONS {
        let path = format!("/channel/{action}");
        for arguments in ARGUMENTS {
            cases.push(case(format!("POST {path}{arguments}"), post(format!("{path}{arguments}"))));
        }
        cases.extend([
            case(format!("GET {path}"), get(format!("{path}?topic=known&channel=c"))),
            case(format!("OPTIONS {path}"), request("OPTIONS", path.clone())),
            case(
                format!("{action} on a known topic, without a channel"),
                post(format!("{path}?topic=conform.channels")),
            )
            .given("conform.channels"),
            case(
                format!("{action} on a known topic, with a bad channel"),
                post(format!("{path}?topic=conform.channels&channel=a%20b")),
            )
            .given("conform.channels"),
        ]);
        if *action != "create" {
            cases.push(
                case(
                    format!("{action} of an unknown channel"),
                    post(format!("{path}?topic=conform.channels&channel=unknown")),
                )
                .given("conform.channels"),
            );
        }
    }
    let create = |topic: &str| post(format!("/channel/create?topic={topic}&channel=c"));
    let then = |action: &str, topic: &'static str| {
        case(format!("create and {action}"), create(topic))
            .given(topic)
            .pipelined(&post(format!("/channel/{action}?topic={topic}&channel=c")))
            .differs("no-channels", "200 200 open", "200 404 CHANNEL_NOT_FOUND open")
    };
    cases.extend([
        case("create", create("conform.channel")).given("conform.channel"),
        case("create with a body", create("conform.channel.body").body("ignored"))
            .given("conform.channel.body"),
        case("create twice", create("conform.channel.twice"))
            .given("conform.channel.twice")
            .pipelined(&create("conform.channel.twice")),
        case(
            "create of an ephemeral channel",
            post("/channel/create?topic=conform.channel.e&channel=c%23ephemeral"),
        )
        .given("conform.channel.e"),
        case("create with a body held back", create("conform.channel.held").announcing(5))
            .given("conform.channel.held"),
        case("create with a body that ends too soon", create("conform.channel.cut").announcing(5))
            .given("conform.channel.cut")
            .half_closed(),
        then("delete", "conform.channel.delete"),
        then("empty", "conform.channel.empty"),
        then("pause", "conform.channel.pause"),
        then("unpause", "conform.channel.unpause"),
        case("the create of nsqd 0.3", post("/create_channel?topic=known&channel=c")),
    ]);
    cases
}
