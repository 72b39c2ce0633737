//! `POST /mpub?binary=true`: a count, then sizes and bytes.

use super::{BINARY, Case, MAX_MSG, MPUB, case};
use crate::conformance::request::post;

fn number(number: i32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn message(body: &[u8]) -> Vec<u8> {
    [number(body.len() as i32), body.to_vec()].concat()
}

fn batch(bodies: &[&[u8]]) -> Vec<u8> {
    let messages: Vec<u8> = bodies.iter().flat_map(|body| message(body)).collect();
    [number(bodies.len() as i32), messages].concat()
}

pub fn cases() -> Vec<Case> {
    let more = vec![b'a'; MAX_MSG + 1];
    let most = &more[1..];
    let two = batch(&[b"a", b"b"]);
    // Good as text, bad as a batch: the answer tells what it was taken for.
    let mut cases: Vec<Case> =
        ["=true", "=1", "=false", "=0", "=", "", "=TRUE", "=True", "=False", "=x", "=tru%65"]
            .iter()
            .map(|value| case(format!("binary{value}"), post(format!("{MPUB}&binary{value}")).body("abc")))
            .collect();
    cases.extend([
        case("the first binary counts", post(format!("{MPUB}&binary=false&binary=true")).body("abc")),
        case("two messages", post(BINARY).body(&two)),
        case("Binary is no binary", post(format!("{MPUB}&Binary=true")).body("abc")),
        case("no topic", post("/mpub?binary=true").body(&two)),
        case("an empty body", post(BINARY)),
        case("three bytes", post(BINARY).body(b"\0\0\0")),
        case("a count of none", post(BINARY).body(number(0))),
        case("a negative count", post(BINARY).body(number(-1))),
        case("a count beyond any body", post(BINARY).body(number(1_048_576))),
        case("the largest count, and nothing behind it", post(BINARY).body(number(1_048_575))),
        case("no size", post(BINARY).body(number(1))),
        case("half a size", post(BINARY).body([&number(1)[..], b"\0\0"].concat())),
        case("an empty message", post(BINARY).body(batch(&[b""]))),
        case("an empty message behind a good one", post(BINARY).body(batch(&[b"a", b""]))),
        case("a negative size", post(BINARY).body([number(1), number(-1)].concat())),
        case("the least size there is", post(BINARY).body([number(1), number(i32::MIN)].concat())),
        case("a message cut short", post(BINARY).body([&number(1)[..], &number(5), b"abcd"].concat())),
        case("fewer messages than counted", post(BINARY).body([number(2), message(b"a")].concat())),
        case("bytes behind the last message", post(BINARY).body([&batch(&[b"a"])[..], b"zzz"].concat())),
        case(
            "what goes over TCP, with the size of all in front",
            post(BINARY).body([number(10), two.clone()].concat()),
        ),
        case("the largest message", post(BINARY).body(batch(&[most]))),
        case("a larger message", post(BINARY).body(batch(&[&more]))).differs(
            "reads-whole-body",
            "413 BAD_MESSAGE closed",
            "413 BAD_MESSAGE open",
        ),
        case("a good message and then a larger one", post(BINARY).body(batch(&[b"a", &more]))).differs(
            "reads-whole-body",
            "413 BAD_MESSAGE closed",
            "413 BAD_MESSAGE open",
        ),
        case("a thousand messages", post(BINARY).body(batch(&[&b"abc"[..]; 1000]))),
        case("in chunks", post(BINARY).chunks([&two])),
        case("in chunks of a byte", post(BINARY).chunks(two.iter().map(|byte| [*byte]))),
        case("twelve megabytes in chunks", post(BINARY).chunks([batch(&[&most[..1_000_000]; 12])])).differs(
            "binary-chunks",
            "200 open",
            "413 BODY_TOO_BIG closed",
        ),
        case(
            "much behind the last message, in chunks",
            post(BINARY).chunks([batch(&[b"a"]), vec![b'z'; 12_000_000]]),
        ),
        case("a bad count before a bad chunk", post(BINARY).chunked(b"4\r\n\0\0\0\0\r\nzz\r\n")).differs(
            "reads-whole-body",
            "413 BAD_BODY closed",
            "500 INTERNAL_ERROR closed",
        ),
        case("a bad count before chunks that stay away", post(BINARY).chunked(b"4\r\n\0\0\0\0\r\n")),
    ]);
    cases
}
