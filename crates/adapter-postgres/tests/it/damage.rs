//! A disk that has lost some of what was stored.

use std::path::Path;

use tokio::task::spawn_blocking;
use warren_adapter_conformance::samples::message;
use warren_adapter_postgres::{PostgresConfig, PostgresReader, PostgresStore, ReaderConfig, migrate};
use warren_domain::ports::{HealthCheck, MessageReader, MessageStore, Order, ReadError, Search, TimeRange};
use warren_domain::{MessageId, Selection, Severity, SeveritySet};
use warren_test_servers::PrivatePostgres;

use crate::support::connect;

/// A text that is too long for its row and cannot be made shorter, so that PostgreSQL keeps it apart.
fn long_text() -> String {
    let mut rng = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| rng.alphanumeric())
        .take(40_000)
        .collect()
}

/// Overwrites a file with zeros, as a disk has it that lost its blocks.
fn lose(file: &Path) {
    let size = file.metadata().unwrap().len();
    assert!(size > 40_000, "the text is in it");
    let lost = std::fs::File::options()
        .write(true)
        .truncate(true)
        .open(file)
        .unwrap();
    lost.set_len(size).unwrap();
}

fn everything(order: Order) -> Search {
    Search {
        selection: Selection::of(SeveritySet::ALL),
        query: "".parse().unwrap(),
        range: TimeRange::ALL,
        order,
        from: None,
    }
}

fn assert_damaged<T: std::fmt::Debug>(read: Result<T, ReadError>) {
    let told = read.unwrap_err();
    assert!(matches!(told, ReadError::Misconfigured { .. }), "{told}");
    let said = told.to_string();
    assert!(
        said.contains("XX001") && said.contains("restore it from a backup"),
        "{said}"
    );
}

#[tokio::test]
async fn a_text_that_the_disk_has_lost_spoils_no_page_but_its_own() {
    let mut server = spawn_blocking(|| PrivatePostgres::start().unwrap())
        .await
        .unwrap();
    let config = PostgresConfig {
        url: server.url(),
        ..PostgresConfig::default()
    };
    migrate(&config).await.unwrap();
    let store = PostgresStore::new(config.clone(), None).unwrap();
    let mut ids: Vec<MessageId> = Vec::new();
    for body in ["before", "and before", &long_text(), "behind", "and behind"] {
        let message = message(Severity::Info, "shop", body);
        store.store(std::slice::from_ref(&message)).await.unwrap();
        ids.push(message.id);
    }
    store.close().await;
    let apart = format!(
        "select pg_relation_filepath(reltoastrelid) from pg_class \
         where oid = (select tableoid from messages where id = '{}')",
        ids[2]
    );
    let admin = connect(&config.url).await;
    let file: String = admin.query_one(&apart, &[]).await.unwrap().get(0);
    drop(admin);
    let server = spawn_blocking(move || {
        server.stop();
        lose(&server.data().join(file));
        server.start_again().unwrap();
        server
    });
    let server = server.await.unwrap();

    let reader = PostgresReader::new(&config, &ReaderConfig::default()).unwrap();
    reader.check().await.unwrap();
    assert_damaged(reader.fetch(ids[2]).await);
    for order in [Order::NewestFirst, Order::OldestFirst] {
        assert_damaged(reader.find(&everything(order), 5).await);
        // A page that ends before it, and one that begins behind it.
        let near = reader.find(&everything(order), 2).await.unwrap();
        let mut near: Vec<_> = near.messages.iter().map(|stored| stored.message.id).collect();
        near.sort();
        let expected = if order == Order::NewestFirst {
            &ids[3..]
        } else {
            &ids[..2]
        };
        assert_eq!(near, expected);
    }
    for id in [ids[0], ids[1], ids[3], ids[4]] {
        assert_eq!(reader.fetch(id).await.unwrap().unwrap().message.id, id);
    }
    reader.close().await;
    spawn_blocking(move || drop(server)).await.unwrap();
}
