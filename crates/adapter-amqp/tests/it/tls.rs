//! TLS towards the broker, against a terminator in front of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use warren_adapter_amqp::{AmqpConfig, AmqpPublisher};
use warren_adapter_conformance::samples::messages;
use warren_domain::ports::MessagePublisher;

use crate::support::{Corner, address, unhealthy};

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    fn pem_file(&self, directory: &Path, name: &str) -> PathBuf {
        written(directory, name, &self.issuer.pem())
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

fn written(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Takes TLS connections for `name` and carries them to the broker.
async fn terminator(
    authority: &Authority,
    name: &str,
    clients: Option<&Authority>,
) -> (u16, AbortOnDropHandle<()>) {
    let (certificate, key) = authority.issue(name);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.issuer.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = builder
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let (acceptor, listener) = (
        TlsAcceptor::from(Arc::new(config)),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    );
    let port = listener.local_addr().unwrap().port();
    let accepting = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await?;
                let mut broker = TcpStream::connect(address().authority).await?;
                tokio::io::copy_bidirectional(&mut client, &mut broker).await
            });
        }
    });
    (port, AbortOnDropHandle::new(accepting))
}

fn config(corner: &Corner, host: &str, port: u16, ca: PathBuf) -> AmqpConfig {
    let crate::support::Address { user, path, .. } = address();
    AmqpConfig {
        url: format!("amqps://{user}@{host}:{port}/{path}").into(),
        tls_ca_file: Some(ca),
        ..corner.config.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_certificate_of_the_right_name_is_taken() {
    Corner::run(|corner| async move {
        let (directory, authority) = (TempDir::new().unwrap(), Authority::new());
        let ca = authority.pem_file(directory.path(), "ca.pem");
        for host in ["localhost", "127.0.0.1"] {
            let (port, _serving) = terminator(&authority, host, None).await;
            let publisher = AmqpPublisher::start(config(&corner, host, port, ca.clone())).unwrap();
            publisher.publish(messages(100), None).await.unwrap();
            publisher.close().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority_or_another_name_is_refused() {
    Corner::run(|corner| async move {
        let (directory, authority) = (TempDir::new().unwrap(), Authority::new());
        let own = authority.pem_file(directory.path(), "own.pem");
        let other = Authority::new().pem_file(directory.path(), "other.pem");
        for (ca, name) in [(other, "localhost"), (own, "broker.example")] {
            let (port, _serving) = terminator(&authority, name, None).await;
            let publisher = AmqpPublisher::start(config(&corner, "localhost", port, ca)).unwrap();
            let said = unhealthy(&publisher, "certificate").await;
            assert!(said.contains(&port.to_string()), "{said}");
            assert!(publisher.publish(messages(1), None).await.is_err());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_our_own_is_shown() {
    Corner::run(|corner| async move {
        let (directory, authority) = (TempDir::new().unwrap(), Authority::new());
        let ca = authority.pem_file(directory.path(), "ca.pem");
        let (port, _serving) = terminator(&authority, "localhost", Some(&authority)).await;
        let (certificate, key) = authority.issue("client");
        let with_certificate = AmqpConfig {
            tls_cert_file: Some(written(directory.path(), "cert.pem", &certificate.pem())),
            tls_key_file: Some(written(directory.path(), "key.pem", &key.serialize_pem())),
            ..config(&corner, "localhost", port, ca)
        };
        let publisher = AmqpPublisher::start(with_certificate).unwrap();
        publisher.publish(messages(1), None).await.unwrap();
    })
    .await;
}
