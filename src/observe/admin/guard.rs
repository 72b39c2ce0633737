//! Who may ask the admin listener: over TLS, with a token, or whoever is on this machine.

use std::{net::SocketAddr, path::Path, sync::Arc};

use subtle::ConstantTimeEq;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig, crypto::ring},
};
use tracing::warn;

use crate::pem::{self, PemError};

/// What the settings say about it.
pub struct GuardSettings<'a> {
    /// Where the listener is to listen.
    pub address: SocketAddr,
    /// The certificate chain to show.
    pub tls_cert: Option<&'a Path>,
    /// Its private key.
    pub tls_key: Option<&'a Path>,
    /// A file with the token.
    pub token_file: Option<&'a Path>,
    /// The token itself; the file counts for more.
    pub token: Option<String>,
    /// It may be open to anybody.
    pub insecure: bool,
}

/// Settings that leave the listener open by mistake, or that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Anybody could ask.
    #[error(
        "--admin-address {0} can be reached from other machines: give --admin-tls-cert and --admin-tls-key, or a token in \
         --admin-token-file or NSQBRIDGE_ADMIN_TOKEN; or listen on 127.0.0.1; or say --admin-insecure if anybody may ask"
    )]
    Open(SocketAddr),
    /// A certificate without its key, or the other way round.
    #[error("--admin-tls-cert and --admin-tls-key need each other")]
    HalfAnIdentity,
    /// A file of the certificate.
    #[error("admin TLS: {0}")]
    File(#[from] PemError),
    /// Certificate and key can be read, but do not fit.
    #[error("admin TLS: --admin-tls-cert and --admin-tls-key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The token cannot be read.
    #[error("--admin-token-file {path}: {error}")]
    TokenFile {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A token no request can show.
    #[error(
        "the admin token in {0} is empty or holds more than letters, digits and punctuation: no request can show it"
    )]
    Token(String),
}

/// Decides who may ask. Shows no secret.
#[derive(Clone)]
pub struct Guard {
    tls: Option<TlsAcceptor>,
    token: Option<Arc<[u8]>>,
}

impl Guard {
    /// Reads what the settings name.
    ///
    /// # Errors
    /// [`GuardError`]; nothing is served then.
    pub fn new(settings: GuardSettings<'_>) -> Result<Self, GuardError> {
        let tls = match (settings.tls_cert, settings.tls_key) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some(acceptor(chain, key)?),
            _ => return Err(GuardError::HalfAnIdentity),
        };
        let token = token(settings.token_file, settings.token)?;
        let address = settings.address;
        if tls.is_none() && !address.ip().to_canonical().is_loopback() {
            if token.is_some() {
                warn!(admin_address = %address, "without TLS the admin token can be read on the way");
            } else if !settings.insecure {
                return Err(GuardError::Open(address));
            }
        }
        Ok(Self { tls, token })
    }

    /// How to speak TLS, if it is to be spoken.
    pub(super) fn tls(&self) -> Option<&TlsAcceptor> {
        self.tls.as_ref()
    }

    /// Whether a request with this `Authorization` may be answered.
    pub(super) fn admits(&self, authorization: Option<&[u8]>) -> bool {
        let Some(token) = &self.token else { return true };
        let shown = authorization.and_then(|value| {
            let (scheme, shown) = value.split_at_checked(b"Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(shown)
        });
        shown.is_some_and(|shown| bool::from(shown.ct_eq(token)))
    }
}

fn acceptor(chain: &Path, key: &Path) -> Result<TlsAcceptor, GuardError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(pem::certificates(chain)?, pem::private_key(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn token(file: Option<&Path>, given: Option<String>) -> Result<Option<Arc<[u8]>>, GuardError> {
    let (origin, text) = match (file, given) {
        (Some(file), _) => {
            let path = file.display().to_string();
            match std::fs::read_to_string(file) {
                Ok(text) => (path, text),
                Err(error) => return Err(GuardError::TokenFile { path, error }),
            }
        }
        (None, Some(text)) => ("NSQBRIDGE_ADMIN_TOKEN".to_owned(), text),
        (None, None) => return Ok(None),
    };
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(GuardError::Token(origin));
    }
    Ok(Some(token.as_bytes().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str) -> GuardSettings<'_> {
        let address = address.parse().unwrap();
        GuardSettings {
            address,
            tls_cert: None,
            tls_key: None,
            token_file: None,
            token: None,
            insecure: false,
        }
    }

    fn guard(address: &str, token: Option<&str>, insecure: bool) -> Result<Guard, GuardError> {
        Guard::new(GuardSettings { token: token.map(str::to_owned), insecure, ..settings(address) })
    }

    #[test]
    fn beyond_loopback_nobody_is_let_in_by_mistake() {
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(guard(loopback, None, false).is_ok(), "{loopback}");
        }
        for beyond in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(matches!(guard(beyond, None, false), Err(GuardError::Open(_))), "{beyond}");
            assert!(guard(beyond, None, true).is_ok(), "{beyond}");
            assert!(guard(beyond, Some("t"), false).is_ok(), "{beyond}");
        }
    }

    #[test]
    fn only_the_whole_token_is_admitted() {
        let guard = guard("127.0.0.1:1", Some(" s3cret\n"), false).unwrap();
        for admitted in ["Bearer s3cret", "bearer s3cret", "BEARER s3cret"] {
            assert!(guard.admits(Some(admitted.as_bytes())), "{admitted}");
        }
        for refused in [
            "",
            "s3cret",
            "Bearer",
            "Bearer ",
            "Bearer s3cre",
            "Bearer s3crett",
            "Bearer  s3cret",
            "Basic s3cret",
        ] {
            assert!(!guard.admits(Some(refused.as_bytes())), "{refused:?}");
        }
        assert!(!guard.admits(None));
    }

    #[test]
    fn a_token_no_request_could_show_is_refused() {
        for token in ["", " \n", "two words", "tab\tbed", "schlüssel"] {
            assert!(
                matches!(guard("127.0.0.1:1", Some(token), false), Err(GuardError::Token(_))),
                "{token:?}"
            );
        }
        let missing =
            GuardSettings { token_file: Some(Path::new("/no/such/file")), ..settings("127.0.0.1:1") };
        let error = Guard::new(missing).err().unwrap().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
    }
}
