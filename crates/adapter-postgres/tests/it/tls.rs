//! Encryption, against a server certificate made for the test.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use warren_adapter_conformance::samples::messages;
use warren_adapter_postgres::{PostgresConfig, PostgresReader, PostgresStore, ReaderConfig, migrate};
use warren_domain::ports::{MessageStore, StoreError};

use crate::proxy::server_address;
use crate::support::{Database, find, with_database};

/// Somebody who signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certificate.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            file,
        }
    }

    /// Makes what a server for `host` needs; `expired`: whose certificate ended long ago.
    fn server(&self, host: &str, expired: bool) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(certificate)],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Stands before PostgreSQL and speaks TLS, or says that it cannot; returns its port.
async fn terminator(tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                // A client that finds the certificate wanting goes away: no error of the test's.
                drop(terminate(client, tls).await);
            });
        }
    });
    port
}

async fn terminate(mut client: TcpStream, tls: Option<TlsAcceptor>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server_address()).await?;
    // SSLRequest: a length of 8 and the number 80877103.
    let mut request = [0; 8];
    client.read_exact(&mut request).await?;
    assert_eq!(
        request,
        [0, 0, 0, 8, 4, 210, 22, 47],
        "a client that does not ask for TLS"
    );
    if let Some(tls) = tls {
        client.write_all(b"S").await?;
        let mut client = tls.accept(client).await?;
        copy_bidirectional(&mut client, &mut server).await?;
    } else {
        client.write_all(b"N").await?;
        copy_bidirectional(&mut client, &mut server).await?;
    }
    Ok(())
}

fn config(database: &Database, port: u16, mode: &str, ca: Option<&Authority>) -> PostgresConfig {
    let (user, _) = database.url.rsplit_once('@').unwrap();
    PostgresConfig {
        url: format!("{user}@localhost:{port}/{}?sslmode={mode}", database.name),
        tls_ca_file: ca.map(|ca| ca.file.path().to_owned()),
        ..PostgresConfig::default()
    }
}

async fn assert_works(config: &PostgresConfig) {
    let store = PostgresStore::new(config.clone(), None).unwrap();
    let batch = messages(500);
    store.store(&batch).await.unwrap();
    let reader = PostgresReader::new(config, &ReaderConfig::default()).unwrap();
    assert_eq!(find(&reader, &[batch[0].id]).await.len(), 1);
    reader.close().await;
    migrate(config).await.unwrap();
    store.close().await;
}

async fn assert_refused(config: &PostgresConfig, said: &str) {
    let store = PostgresStore::new(config.clone(), None).unwrap();
    let error = store.store(&messages(3)).await.unwrap_err();
    assert!(matches!(error, StoreError::Misconfigured { .. }), "{error}");
    assert!(error.to_string().contains(said), "{error}");
    assert!(matches!(
        migrate(config).await,
        Err(StoreError::Misconfigured { .. })
    ));
}

#[tokio::test]
async fn verify_full_wants_the_right_signature_and_the_right_name() {
    with_database(|database| async move {
        let (ours, other) = (Authority::new(), Authority::new());
        let port = terminator(Some(ours.server("localhost", false))).await;
        assert_works(&config(&database, port, "verify-full", Some(&ours))).await;
        assert_refused(
            &config(&database, port, "verify-full", Some(&other)),
            "certificate",
        )
        .await;
        // What the system trusts does not include an authority made just now.
        assert_refused(&config(&database, port, "verify-full", None), "certificate").await;

        let port = terminator(Some(ours.server("db.example", false))).await;
        assert_refused(
            &config(&database, port, "verify-full", Some(&ours)),
            "certificate",
        )
        .await;
        assert_works(&config(&database, port, "verify-ca", Some(&ours))).await;

        let port = terminator(Some(ours.server("localhost", true))).await;
        assert_refused(
            &config(&database, port, "verify-full", Some(&ours)),
            "certificate",
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn require_encrypts_and_checks_who_signed_once_it_knows_whom_to_trust() {
    with_database(|database| async move {
        let (ours, other) = (Authority::new(), Authority::new());
        let port = terminator(Some(ours.server("db.example", false))).await;
        assert_works(&config(&database, port, "require", None)).await;
        assert_works(&config(&database, port, "require", Some(&ours))).await;
        assert_refused(&config(&database, port, "require", Some(&other)), "certificate").await;
        assert_works(&config(&database, port, "prefer", None)).await;
    })
    .await;
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_required_and_taken_where_it_is_preferred() {
    with_database(|database| async move {
        let ours = Authority::new();
        let port = terminator(None).await;
        for mode in ["require", "verify-ca", "verify-full"] {
            assert_refused(&config(&database, port, mode, Some(&ours)), "sslmode").await;
        }
        assert_works(&config(&database, port, "prefer", None)).await;
    })
    .await;
}

#[tokio::test]
async fn a_ca_file_that_cannot_be_used_is_a_problem_of_the_settings() {
    let file = NamedTempFile::new().unwrap();
    for path in [file.path().to_owned(), "/nonexistent/ca.pem".into()] {
        let config = PostgresConfig {
            url: "postgres://warren@db/warren?sslmode=verify-full".to_owned(),
            tls_ca_file: Some(path.clone()),
            ..PostgresConfig::default()
        };
        let error = PostgresStore::new(config, None).unwrap_err().to_string();
        assert!(error.contains("postgres.tls_ca_file"), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
