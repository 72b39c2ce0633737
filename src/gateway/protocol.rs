//! What Go's HTTP server refuses before nsqd sees a request, where hyper would let it through.
//!
//! Most of it is hygiene. One is more: a body in a transfer encoding other than chunks would be stored as it is encoded.

use hyper::{
    StatusCode, Version,
    header::{EXPECT, HOST, TRANSFER_ENCODING},
    http::request::Parts,
};

use super::replies::Reply;

/// Checks a request's head.
///
/// # Errors
/// The answer to give; the connection ends with it.
pub(super) fn check(head: &Parts) -> Result<(), Reply> {
    let refuse = |status, text| Err(Reply::Malformed(status, text));
    if head.version >= Version::HTTP_11 {
        match head.headers.get_all(HOST).iter().count() {
            0 => return refuse(StatusCode::BAD_REQUEST, "400 Bad Request: missing required Host header"),
            1 => {}
            _ => return refuse(StatusCode::BAD_REQUEST, "400 Bad Request: too many Host headers"),
        }
    }
    let encodings = || head.headers.get_all(TRANSFER_ENCODING).iter();
    if encodings().count() > 1
        || encodings().any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return refuse(StatusCode::NOT_IMPLEMENTED, "Unsupported transfer encoding");
    }
    let expected = head.headers.get(EXPECT).map_or(&b""[..], |expected| expected.as_bytes());
    if !expected.is_empty() && !expected.eq_ignore_ascii_case(b"100-continue") {
        return refuse(StatusCode::EXPECTATION_FAILED, "");
    }
    Ok(())
}
