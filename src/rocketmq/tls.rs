//! TLS to brokers and name servers.

use std::{path::Path, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

use super::connection::Stream;
use crate::pem::{self, PemError};

/// How to speak TLS with a cluster: whom to trust, and who we are.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or not PEM.
    #[error(transparent)]
    File(#[from] PemError),
    /// The certificates are readable but do not fit together.
    #[error("TLS: {0}")]
    Unusable(String),
}

impl Tls {
    /// Trusts the certificate authorities in `ca`, and shows the certificate of `identity` (chain and key files) to a
    /// broker that asks for one. The broker's certificate must name the host it is reached by.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn new(ca: &Path, identity: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        let unusable = |error: tokio_rustls::rustls::Error| TlsError::Unusable(error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in pem::certificates(ca)? {
            roots.add(certificate).map_err(unusable)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some((chain, key)) => config
                .with_client_auth_cert(pem::certificates(chain)?, pem::private_key(key)?)
                .map_err(unusable)?,
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(super) async fn handshake(&self, address: &str, tcp: TcpStream) -> Result<Box<dyn Stream>, String> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("TLS: {host}: {error}"))?;
        let stream = self.0.connect(name, tcp).await.map_err(|error| format!("TLS handshake: {error}"))?;
        Ok(Box::new(stream))
    }
}
