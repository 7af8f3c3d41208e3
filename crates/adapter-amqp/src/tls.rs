//! TLS towards the broker: rustls with the ring provider, the system's authorities and the operator's own.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::AmqpConfig;
use crate::error::ConfigError;

/// Reads the certificates and makes the configuration of every TLS connection.
pub(crate) fn client_config(config: &AmqpConfig) -> Result<Arc<ClientConfig>, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::one("url", format!("TLS is not usable: {error}")))?
        .with_root_certificates(roots(config.tls_ca_file.as_deref())?);
    let config = match (&config.tls_cert_file, &config.tls_key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates("tls_cert_file", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable("tls_key_file", key, &error.to_string()))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                ConfigError::one(
                    "tls_key_file",
                    format!("does not go with amqp.tls_cert_file: {error}"),
                )
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(own: Option<&Path>) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    let (taken, _ignored) = roots.add_parsable_certificates(system.certs);
    if let Some(path) = own {
        for certificate in certificates("tls_ca_file", path)? {
            roots
                .add(certificate)
                .map_err(|error| unreadable("tls_ca_file", path, &error.to_string()))?;
        }
    } else if taken == 0 {
        let problem = "the system has no certificate authorities; name a PEM file with the broker's";
        return Err(ConfigError::one("tls_ca_file", problem));
    }
    Ok(roots)
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(setting, path, &error.to_string()))?;
    if certificates.is_empty() {
        return Err(unreadable(setting, path, "no certificate in it"));
    }
    Ok(certificates)
}

fn unreadable(setting: &'static str, path: &Path, why: &str) -> ConfigError {
    ConfigError::one(
        setting,
        format!("{} is not usable as a PEM file: {why}", path.display()),
    )
}
