//! `HOST:PORT`, checked at the border.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a server listens: a host name or IP address (IPv6 in brackets), and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct HttpAddress(String);

/// Something that is not `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address: HOST:PORT is accepted, such as 10.0.0.7:4151 or [::1]:4151")]
pub struct InvalidAddress(String);

impl HttpAddress {
    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host, as it was given.
    #[must_use]
    pub fn host(&self) -> &str {
        self.as_str().rsplit_once(':').map_or("", |(host, _)| host)
    }

    /// From host and port; an IPv6 address gets its brackets.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        if host.contains(':') && !host.starts_with('[') {
            Self(format!("[{host}]:{port}"))
        } else {
            Self(format!("{host}:{port}"))
        }
    }
}

impl FromStr for HttpAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port: u16 = port.parse().map_err(|_| invalid())?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let legal =
            |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || (bracketed && ":[]%".contains(c));
        if host.is_empty() || port == 0 || !host.chars().all(legal) {
            return Err(invalid());
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for HttpAddress {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<HttpAddress> for String {
    fn from(address: HttpAddress) -> Self {
        address.0
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for address in ["a:1", "10.0.0.7:4151", "[::1]:4151", "nsqd-1.example:65535"] {
            assert_eq!(address.parse::<HttpAddress>().unwrap().as_str(), address);
        }
        for address in ["", "a", ":1", "a:", "a:0", "a:65536", "::1:4151", "http://a:1", "a b:1", "a/b:1"] {
            assert!(address.parse::<HttpAddress>().is_err(), "{address}");
        }
        assert_eq!(HttpAddress::new("::1", 2).as_str(), "[::1]:2");
        assert_eq!(HttpAddress::new("h", 2).as_str(), "h:2");
    }
}
