//! How bodies are framed: lengths, chunks, and ends that come too soon.

use super::{Case, PUB, case};
use crate::conformance::request::{encode_chunks, get, post};

const CHUNKED: &str = "Transfer-Encoding: chunked";

pub fn cases() -> Vec<Case> {
    let framed = |name: &str, length: &str, body: &str| {
        case(name, post(PUB).header(format!("Content-Length: {length}")).raw(body))
    };
    let malformed = |case: Case| case.differs("malformed", "400 closed", "400 closed");
    vec![
        case("chunks", post(PUB).chunks(["ab", "c"])),
        case("no chunk but the last", post(PUB).chunks([""; 0])),
        case("chunks, and then a ping", post(PUB).chunks(["ab"])).pipelined(&get("/ping")),
        case("a chunk with an extension", post(PUB).chunked("2;a=b\r\nab\r\n0\r\n\r\n")),
        case("a chunk's size with leading zeros", post(PUB).chunked("0002\r\nab\r\n0\r\n\r\n")),
        case("a chunk's size in capitals", post(PUB).chunked("A\r\nabcdefghij\r\n0\r\n\r\n")),
        case("trailers", post(PUB).chunked("2\r\nab\r\n0\r\nX-A: b\r\n\r\n")),
        case("chunks over HTTP/1.0", post(PUB).chunks(["ab"]).http("1.0")).differs(
            "old-chunks",
            "400 MSG_EMPTY closed",
            "400 closed",
        ),
        case(
            "Chunked in capitals",
            post(PUB).header("Transfer-Encoding: CHUNKED").raw(encode_chunks(["ab"])),
        ),
        case("a size that is no number", post(PUB).chunked("zz\r\nabc\r\n")),
        case("a negative size", post(PUB).chunked("-2\r\nab\r\n0\r\n\r\n")),
        case("a size beyond 64 bits", post(PUB).chunked("fffffffffffffffff\r\nab\r\n")),
        case("a chunk longer than its size", post(PUB).chunked("1\r\nabc\r\n0\r\n\r\n")),
        case("chunks that end too soon", post(PUB).chunked("5\r\nab")).half_closed(),
        case("chunks without a last one", post(PUB).chunked("2\r\nab\r\n")).half_closed(),
        framed("a body that ends too soon", "5", "ab").half_closed().differs(
            "says-close",
            "500 INTERNAL_ERROR closed",
            "500 INTERNAL_ERROR closed",
        ),
        case(
            "a body that ends too soon, for /mpub",
            post("/mpub?topic=t").header("Content-Length: 5").raw("ab"),
        )
        .half_closed()
        .differs("says-close", "500 INTERNAL_ERROR closed", "500 INTERNAL_ERROR closed"),
        framed("a length that is no number", "x", "ab").differs("malformed", "400 closed", "400 closed"),
        malformed(framed("a negative length", "-1", "")),
        malformed(framed("a length with a plus", "+1", "a")),
        malformed(framed("a length that is empty", "", "a")),
        malformed(framed("a length beyond 64 bits", "99999999999999999999", "a")),
        framed("a length with leading zeros", "01", "a"),
        case("the same length twice", post(PUB).headers(["Content-Length: 1"; 2]).raw("a")),
        malformed(case(
            "two lengths",
            post(PUB).headers(["Content-Length: 1", "Content-Length: 2"]).raw("a"),
        )),
        case(
            "a length and chunks",
            post(PUB).headers([CHUNKED, "Content-Length: 1"]).raw(encode_chunks(["ab"])),
        )
        .differs("length-and-chunks", "200 open", "200 closed"),
        case(
            "gzip in chunks",
            post(PUB).header("Transfer-Encoding: gzip, chunked").raw(encode_chunks(["ab"])),
        )
        .differs("malformed", "501 closed", "501 closed"),
        case("identity", post(PUB).headers(["Transfer-Encoding: identity", "Content-Length: 2"]).raw("ab"))
            .differs("malformed", "501 closed", "400 closed"),
        case("chunked twice", post(PUB).headers([CHUNKED; 2]).raw(encode_chunks(["ab"]))).differs(
            "malformed",
            "501 closed",
            "501 closed",
        ),
    ]
}
