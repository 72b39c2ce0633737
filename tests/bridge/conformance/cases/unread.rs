//! Refusals that come before the body is read: whether the client gets to see them, and whether the connection lives on.

use super::{Case, PUB, case};
use crate::conformance::request::{get, post};

/// Up to here, Go reads a body it does not need.
const READ_FIRST: usize = 256 * 1024;

pub fn cases() -> Vec<Case> {
    let refused = |bytes: usize| post("/mpub").body(vec![b'a'; bytes]);
    vec![
        case("a small body, refused, and then a ping", refused(2)).pipelined(&get("/ping")),
        case("a body just small enough, refused, and then a ping", refused(READ_FIRST - 1))
            .pipelined(&get("/ping")),
        case("a body too large to read on, refused", refused(READ_FIRST)),
        case("a larger body, refused", refused(300_000)),
        case("two megabytes, refused", refused(2_000_000)),
        case("two megabytes, refused, to a client that sends before it reads", refused(2_000_000)).blindly(),
        case("two megabytes to nowhere", post("/nope").body(vec![b'a'; 2_000_000])),
        case(
            "two megabytes to nowhere, to a client that sends before it reads",
            post("/nope").body(vec![b'a'; 2_000_000]),
        )
        .blindly(),
        case("chunks, refused, and then a ping", post("/mpub").chunks(["ab"])).pipelined(&get("/ping")),
        case("large chunks, refused", post("/mpub").chunks([vec![b'a'; 300_000]])),
        case("a small body to nowhere, and then a ping", post("/nope").body("ab")).pipelined(&get("/ping")),
        case("a body with GET, refused, and then a ping", get("/pub").body("ab")).pipelined(&get("/ping")),
        case("a large body held back, refused", post("/mpub").announcing(300_000)),
        case("two megabytes held back, refused", post(PUB).announcing(2_000_000)),
        case("a small body held back, to nowhere", post("/nope").announcing(2048)).differs(
            "body-awaited",
            "silent",
            "404 NOT_FOUND closed",
        ),
        case("a small body held back, refused", post("/mpub").announcing(2048)).differs(
            "body-awaited",
            "silent",
            "400 MISSING_ARG_TOPIC closed",
        ),
        case("a body that stays away", post(PUB).announcing(5)),
        case("a body that stays away half-way", post(PUB).announcing(5)).then("ab"),
    ]
}
