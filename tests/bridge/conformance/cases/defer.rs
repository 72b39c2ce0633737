//! `POST /pub?defer=`.

use super::{Case, PUB, case};
use crate::conformance::request::post;

const VALUES: &[&str] = &[
    "0",
    "-0",
    "+0",
    "+5",
    "%2B5",
    "007",
    "1",
    "999",
    "3600000",
    "3600001",
    "-1",
    "",
    "a",
    "1.5",
    "%201",
    "1%20",
    "1_0",
    "0x1",
    "1e3",
    "%31",
    "9223372036854775807",
    "9223372036854775808",
    "-1000",
    "9223372036854",
    "1&defer=x",
    "x&defer=1",
    "00000000000000000000000000000001",
    "1%00",
    "%D9%A1",
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = VALUES
        .iter()
        .map(|value| case(format!("defer={value}"), post(format!("{PUB}&defer={value}")).body("x")))
        .collect();
    let overflowing = |value: &str| {
        case(
            format!("defer={value}, beyond nsqd's arithmetic"),
            post(format!("{PUB}&defer={value}")).body("x"),
        )
        .differs("defer-overflow", "200 open", "400 INVALID_DEFER open")
    };
    cases.extend([
        case("defer without a value", post(format!("{PUB}&defer")).body("x")),
        case("a bad defer and no topic", post("/pub?defer=x").body("x")),
        case("a bad defer and an empty body", post(format!("{PUB}&defer=x"))),
        case("Defer is no defer", post(format!("{PUB}&Defer=x")).body("x")),
        overflowing("18446744073710"),
        overflowing("-9223372036854775808"),
    ]);
    cases
}
