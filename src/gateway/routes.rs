//! Method and path → route, as nsqd's router (httprouter) decides; it looks at the path unescaped.
//!
//! Known paths answer 405 to other methods and list the allowed ones; a path that differs only in case, slashes or dots from a
//! route of the same method is redirected there; everything else is 404.

use hyper::{Method, StatusCode, Uri, header::HeaderValue};

use super::replies::{Error, Reply};
use crate::nsq::query::unescape_path;

/// What is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Ping,
    Info,
    Pub,
    Mpub,
    Stats,
    Topic(Action),
    Channel(Action),
    /// `/config/NAME`, to be read.
    ReadOption(String),
    /// `/config/NAME`, to be set.
    SetOption(String),
}

/// What can be done to topics and channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Create,
    Delete,
    Empty,
    Pause,
    Unpause,
}

const FIXED: &[(Method, &str, Route)] = &[
    (Method::GET, "/ping", Route::Ping),
    (Method::GET, "/info", Route::Info),
    (Method::POST, "/pub", Route::Pub),
    (Method::POST, "/mpub", Route::Mpub),
    (Method::GET, "/stats", Route::Stats),
    (Method::POST, "/topic/create", Route::Topic(Action::Create)),
    (Method::POST, "/topic/delete", Route::Topic(Action::Delete)),
    (Method::POST, "/topic/empty", Route::Topic(Action::Empty)),
    (Method::POST, "/topic/pause", Route::Topic(Action::Pause)),
    (Method::POST, "/topic/unpause", Route::Topic(Action::Unpause)),
    (Method::POST, "/channel/create", Route::Channel(Action::Create)),
    (Method::POST, "/channel/delete", Route::Channel(Action::Delete)),
    (Method::POST, "/channel/empty", Route::Channel(Action::Empty)),
    (Method::POST, "/channel/pause", Route::Channel(Action::Pause)),
    (Method::POST, "/channel/unpause", Route::Channel(Action::Unpause)),
];
const OPTIONS_AT: &str = "/config/";

impl Route {
    /// What metrics call it.
    pub(super) fn endpoint(&self) -> &'static str {
        match self {
            Route::Ping => "ping",
            Route::Info => "info",
            Route::Pub => "pub",
            Route::Mpub => "mpub",
            Route::Stats => "stats",
            Route::Topic(_) => "topic",
            Route::Channel(_) => "channel",
            Route::ReadOption(_) | Route::SetOption(_) => "config",
        }
    }
}

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
    if let Some(route) = exact(method, path) {
        return Ok(route);
    }
    let fixed = tidy(path);
    if exact(method, &fixed).is_some() {
        let status = if method == Method::GET {
            StatusCode::MOVED_PERMANENTLY
        } else {
            StatusCode::TEMPORARY_REDIRECT
        };
        let location = uri.query().map_or_else(|| fixed.clone(), |query| format!("{fixed}?{query}"));
        if let Ok(location) = HeaderValue::try_from(location) {
            return Err(Reply::Redirect(status, location));
        }
    }
    let mut allowed: Vec<&str> = [Method::GET, Method::POST, Method::PUT]
        .iter()
        .filter(|of| exact(of, path).is_some())
        .map(|of| match *of {
            Method::GET => "GET",
            Method::POST => "POST",
            _ => "PUT",
        })
        .collect();
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

fn exact(method: &Method, path: &str) -> Option<Route> {
    if let Some((_, _, route)) = FIXED.iter().find(|(of, at, _)| of == method && *at == path) {
        return Some(route.clone());
    }
    let name = path.strip_prefix(OPTIONS_AT).filter(|name| !name.is_empty() && !name.contains('/'))?;
    match *method {
        Method::GET => Some(Route::ReadOption(name.to_owned())),
        Method::PUT => Some(Route::SetOption(name.to_owned())),
        _ => None,
    }
}

/// A path without doubled slashes, dot segments, a trailing slash or capitals; an option's name keeps its capitals.
fn tidy(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    match segments[..] {
        [first, name] if first.eq_ignore_ascii_case(OPTIONS_AT.trim_matches('/')) => {
            format!("{OPTIONS_AT}{name}")
        }
        _ => format!("/{}", segments.join("/")).to_ascii_lowercase(),
    }
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
        assert_eq!(answer(&Method::POST, "/channel/unpause"), (200, some("Channel(Unpause)")));
    }

    #[test]
    fn options_have_names() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(answer(&Method::GET, "/config/Log_level"), (200, some(r#"ReadOption("Log_level")"#)));
        assert_eq!(answer(&Method::PUT, "/config/a"), (200, some(r#"SetOption("a")"#)));
        assert_eq!(answer(&Method::POST, "/config/a"), (405, some("GET, OPTIONS, PUT")));
        assert_eq!(answer(&Method::GET, "/CONFIG/Log_level/"), (301, some("/config/Log_level")));
        for nothing in ["/config", "/config/", "/config/a/b"] {
            assert_eq!(answer(&Method::GET, nothing), (404, None), "{nothing}");
        }
    }
}
