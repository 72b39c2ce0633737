//! Certificates and private keys from PEM files. Errors name the file.

use std::path::Path;

use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// A file that is missing or does not hold what it should.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}; give a PEM file")]
pub struct PemError {
    /// The file named in the configuration.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The certificates of a file: at least one.
///
/// # Errors
/// [`PemError`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| bad(path, error))?;
    if certificates.is_empty() {
        return Err(bad(path, "it holds no certificate"));
    }
    Ok(certificates)
}

/// The first private key of a file.
///
/// # Errors
/// [`PemError`].
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| bad(path, error))
}

fn bad(path: &Path, reason: impl ToString) -> PemError {
    PemError { path: path.display().to_string(), reason: reason.to_string() }
}
