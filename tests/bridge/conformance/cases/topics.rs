//! `POST /topic/*`.

use super::{Case, case};
use crate::conformance::request::{get, post, request};

const ACTIONS: &[&str] = &["create", "delete", "empty", "pause", "unpause"];
/// What nsqd says of an argument before it looks for a topic; of an invalid name, only create and empty do.
const ARGUMENTS: &[&str] =
    &["", "?topic=", "?topic", "?%zz", "?topic=a;b", "?topic=a%20b", "?channel=c", "?Topic=known"];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for action in ACTIONS {
        for arguments in ARGUMENTS {
            let target = format!("/topic/{action}{arguments}");
            cases.push(case(format!("POST {target}"), post(target)));
        }
        let path = format!("/topic/{action}");
        cases.extend([
            case(format!("GET {path}"), get(format!("{path}?topic=known"))),
            case(format!("HEAD {path}"), request("HEAD", format!("{path}?topic=known"))),
            case(format!("OPTIONS {path}"), request("OPTIONS", path.clone())),
            case(format!("POST {path}/"), post(format!("{path}/?topic=known"))),
        ]);
        if *action != "create" {
            cases.push(case(
                format!("{action} of an unknown topic"),
                post(format!("{path}?topic=conform.unknown")),
            ));
            cases.push(case(
                format!("{action} of an unknown topic, with a body"),
                post(format!("{path}?topic=conform.unknown")).body("ignored"),
            ));
        }
    }
    let unknown = |action: &str| post(format!("/topic/{action}?topic=conform.unknown"));
    let expecting = |action: &str| {
        post(format!("/topic/{action}?topic=conform.asked.{action}")).header("Expect: 100-continue")
    };
    let kept = |name: &str, action: &str, topic: &'static str| {
        case(name, post(format!("/topic/{action}?topic={topic}"))).given(topic).differs(
            "topic-kept",
            "200 open",
            "403 FORBIDDEN open",
        )
    };
    cases.extend([
        case("create", post("/topic/create?topic=conform.created")),
        case("create with a body", post("/topic/create?topic=conform.created.body").body("ignored")),
        case("create twice", post("/topic/create?topic=conform.twice"))
            .pipelined(&post("/topic/create?topic=conform.twice")),
        case("create, then publish", post("/topic/create?topic=conform.then"))
            .pipelined(&post("/pub?topic=conform.then").body("x")),
        case("create of an ephemeral topic", post("/topic/create?topic=conform%23ephemeral")),
        case("create of a topic that has messages", post("/topic/create?topic=conform.full"))
            .given("conform.full"),
        case(
            "create with a large body held back",
            post("/topic/create?topic=conform.held").announcing(300_000),
        ),
        case("create, asked for with Expect", expecting("create").announcing(2)).once_asked("never").differs(
            "unasked",
            "200 silent",
            "200 closed",
        ),
        case("delete of an unknown topic, asked for with Expect", expecting("delete").announcing(2))
            .once_asked("ab"),
        case("delete of an unknown topic, with a body that ends too soon", unknown("delete").announcing(5))
            .half_closed(),
        case("empty of an unknown topic, with a body held back", unknown("empty").announcing(5)),
        case(
            "pause of an unknown topic, with a large body, and then a ping",
            unknown("pause").body(vec![b'a'; 600_000]),
        )
        .pipelined(&get("/ping")),
        kept("delete", "delete", "conform.delete"),
        kept("empty", "empty", "conform.empty"),
        kept("pause", "pause", "conform.pause"),
        case("unpause", post("/topic/unpause?topic=conform.unpause")).given("conform.unpause"),
        case("POST /topic", post("/topic?topic=known")),
        case("POST /topic/", post("/topic/?topic=known")),
        case("POST /topic/nothing", post("/topic/nothing?topic=known")),
        case("the create of nsqd 0.3", post("/create_topic?topic=known")),
        case("the delete of nsqd 0.3", post("/delete_topic?topic=known")),
    ]);
    cases
}
