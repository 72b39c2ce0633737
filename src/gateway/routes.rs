//! Method and path → route, as nsqd's router (httprouter) decides; it looks at the path unescaped.
//!
//! Known paths answer 405 to other methods and list the allowed ones; a path that differs only in case, slashes or dots from a
//! route of the same method is redirected there; everything else is 404.

use hyper::{Method, StatusCode, Uri, header::HeaderValue};

use super::replies::{Error, Reply};
use crate::nsq::query::unescape_path;

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Ping,
    Pub,
    Mpub,
}

const ROUTES: &[(Method, &str, Route)] = &[
    (Method::GET, "/ping", Route::Ping),
    (Method::POST, "/pub", Route::Pub),
    (Method::POST, "/mpub", Route::Mpub),
];

/// The route of a request.
///
/// # Errors
/// The answer to give when there is none.
pub(super) fn find(method: &Method, uri: &Uri) -> Result<Route, Reply> {
    let Ok(path) = unescape_path(uri.path()) else {
        return Err(Reply::Malformed(StatusCode::BAD_REQUEST, "400 Bad Request"));
    };
    // Bytes that are not UTF-8 are part of no route, whatever stands for them.
    let path = &*String::from_utf8_lossy(&path);
    if let Some((_, _, route)) = ROUTES.iter().find(|(of, at, _)| of == method && *at == path) {
        return Ok(*route);
    }
    let fixed = tidy(path);
    if let Some((_, at, _)) = ROUTES.iter().find(|(of, at, _)| of == method && *at == fixed) {
        let status = if method == Method::GET {
            StatusCode::MOVED_PERMANENTLY
        } else {
            StatusCode::TEMPORARY_REDIRECT
        };
        let location = uri.query().map_or_else(|| (*at).to_owned(), |query| format!("{at}?{query}"));
        if let Ok(location) = HeaderValue::try_from(location) {
            return Err(Reply::Redirect(status, location));
        }
    }
    let mut allowed: Vec<&str> =
        ROUTES.iter().filter(|(_, at, _)| *at == path).map(|(of, _, _)| of.as_str()).collect();
    if allowed.is_empty() {
        return Err(Reply::Error(Error::NotFound));
    }
    allowed.push("OPTIONS");
    allowed.sort_unstable();
    let allow = HeaderValue::try_from(allowed.join(", ")).map_err(|_| Reply::Error(Error::NotFound))?;
    Err(if method == Method::OPTIONS {
        Reply::Options(allow)
    } else {
        Reply::Error(Error::MethodNotAllowed(allow))
    })
}

/// A path without doubled slashes, dot segments, a trailing slash or capitals.
fn tidy(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/")).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(method: &Method, target: &str) -> (u16, Option<String>) {
        match find(method, &target.parse().unwrap()) {
            Ok(route) => (200, Some(format!("{route:?}"))),
            Err(reply) => {
                let response = reply.into_response();
                let header =
                    |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
                (response.status().as_u16(), header("location").or_else(|| header("allow")))
            }
        }
    }

    #[test]
    fn the_router_answers_as_httprouter_does() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(answer(&Method::POST, "/pub?topic=a"), (200, some("Pub")));
        assert_eq!(answer(&Method::GET, "/pub"), (405, some("OPTIONS, POST")));
        assert_eq!(answer(&Method::HEAD, "/ping"), (405, some("GET, OPTIONS")));
        assert_eq!(answer(&Method::OPTIONS, "/mpub"), (200, some("OPTIONS, POST")));
        assert_eq!(answer(&Method::GET, "/nothing"), (404, None));
        assert_eq!(
            answer(&Method::GET, "/PUB"),
            (404, None),
            "looked up among routes of the same method only"
        );
        for untidy in ["/pub/", "/PUB", "//pub", "/x/../pub"] {
            assert_eq!(
                answer(&Method::POST, &format!("{untidy}?topic=a")),
                (307, some("/pub?topic=a")),
                "{untidy}"
            );
        }
        assert_eq!(answer(&Method::GET, "/ping/"), (301, some("/ping")));
        assert_eq!(answer(&Method::POST, "/%70ub"), (200, some("Pub")));
        assert_eq!(answer(&Method::POST, "/pub%2F"), (307, some("/pub")));
        assert_eq!(answer(&Method::POST, "/pub%zz"), (400, None));
        assert_eq!(answer(&Method::POST, "/pub%ff"), (404, None));
    }
}
