//! Query strings as nsqd reads them: Go's `url.ParseQuery`, without I/O.
//!
//! Unlike the form decoders of the field it refuses a bad escape and a raw `;`, and keeps bytes that are not UTF-8 from turning
//! into something else.

/// A query nsqd answers with 400 `INVALID_REQUEST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the query holds a bad percent escape or a semicolon")]
pub struct InvalidQuery;

/// The parameters of a query, in order. Nothing of it is copied before it is asked for: a query of many small parameters
/// would take fifty times its length for as long as its request lasts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// Reads the part of a request target behind `?`.
    ///
    /// # Errors
    /// [`InvalidQuery`], if any part of it is invalid.
    pub fn parse(query: &'a str) -> Result<Self, InvalidQuery> {
        if query.contains(';') || unescaped(query, b' ').any(|byte| byte.is_err()) {
            return Err(InvalidQuery);
        }
        Ok(Self(query))
    }

    /// The first value of a parameter; `None` when it is absent. Bytes that are not UTF-8 are replaced: no value that
    /// matters here holds any.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let mut pairs = self
            .0
            .split('&')
            .filter(|piece| !piece.is_empty())
            .map(|piece| piece.split_once('=').unwrap_or((piece, "")));
        let (_, value) = pairs.find(|(key, _)| unescaped(key, b' ').eq(name.bytes().map(Ok)))?;
        let value = unescape(value, b' ').ok()?;
        Some(String::from_utf8_lossy(&value).into_owned())
    }
}

/// Reads a path, in which a plus is a plus (Go's `url.PathUnescape`).
///
/// # Errors
/// [`InvalidQuery`] for a bad percent escape.
pub fn unescape_path(path: &str) -> Result<Vec<u8>, InvalidQuery> {
    unescape(path, b'+')
}

fn unescape(text: &str, plus: u8) -> Result<Vec<u8>, InvalidQuery> {
    unescaped(text, plus).collect()
}

fn unescaped(text: &str, plus: u8) -> impl Iterator<Item = Result<u8, InvalidQuery>> {
    let mut bytes = text.bytes();
    let digit = |bytes: &mut std::str::Bytes<'_>| {
        bytes.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(InvalidQuery)
    };
    std::iter::from_fn(move || {
        Some(match bytes.next()? {
            b'+' => Ok(plus),
            b'%' => digit(&mut bytes).and_then(|high| Ok((high * 16 + digit(&mut bytes)?) as u8)),
            other => Ok(other),
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(query: &str, name: &str) -> Option<String> {
        Query::parse(query).unwrap().get(name)
    }

    #[test]
    fn parameters_are_read_as_go_reads_them() {
        assert_eq!(get("topic=a&topic=b", "topic").as_deref(), Some("a"), "the first wins");
        assert_eq!(get("&&topic=a=b&", "topic").as_deref(), Some("a=b"));
        assert_eq!(get("topic", "topic").as_deref(), Some(""));
        assert_eq!(get("Topic=a", "topic"), None, "names are case-sensitive");
        assert_eq!(get("topic=a+b%2Bc%23e", "topic").as_deref(), Some("a b+c#e"));
        assert_eq!(get("t%6fpic=x", "topic").as_deref(), Some("x"));
        assert_eq!(get("", "topic"), None);
        for bad in ["topic=%", "topic=%z1", "topic=a&x=%2", "topic=a;b", "a=1&;"] {
            assert_eq!(Query::parse(bad), Err(InvalidQuery), "{bad}");
        }
    }

    #[test]
    fn a_plus_in_a_path_is_a_plus() {
        assert_eq!(unescape_path("/%70u+b%2f").unwrap(), b"/pu+b/");
        assert_eq!(unescape_path("/%zz"), Err(InvalidQuery));
    }

    proptest! {
        #[test]
        fn no_query_makes_it_panic(query in ".*") {
            let _ = Query::parse(&query);
        }
    }
}
