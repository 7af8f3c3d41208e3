//! What is refused when a directory is opened, and in which words.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use warren_adapter_embedded::{Embedded, EmbeddedConfig, OpenError};
use warren_domain::ports::ConsumerGroup;

use crate::support::{config, directory, open, publish, take};
use warren_adapter_conformance::samples::messages;

/// Opens a file beside the adapter, as a curious operator would.
pub(crate) async fn connect(file: &Path) -> DatabaseConnection {
    let mut options = ConnectOptions::new(format!("sqlite://{}?mode=rwc", file.display()));
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

pub(crate) async fn execute(database: &DatabaseConnection, sql: &str) {
    database.execute_unprepared(sql).await.unwrap();
}

pub(crate) async fn run_sql(file: &Path, statements: &[&str]) {
    let database = connect(file).await;
    for sql in statements {
        execute(&database, sql).await;
    }
    database.close().await.unwrap();
}

pub(crate) async fn count(file: &Path, sql: &str) -> i64 {
    let database = connect(file).await;
    let statement = Statement::from_string(DbBackend::Sqlite, sql);
    let row = database.query_one_raw(statement).await.unwrap().unwrap();
    let count = row.try_get_by_index(0).unwrap();
    database.close().await.unwrap();
    count
}

async fn refusal(directory: &Path) -> OpenError {
    Embedded::open(config(directory), None).await.unwrap_err()
}

#[tokio::test]
async fn a_new_directory_is_for_its_owner_only() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    let mode = std::fs::metadata(directory.path().join("data"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    embedded.close().await;
}

#[tokio::test]
async fn a_second_opener_is_refused_by_name_and_welcome_once_the_first_is_gone() {
    let directory = directory();
    let first = open(directory.path()).await;
    let error = refusal(directory.path()).await;
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("data is in use by another process"), "{text}");
    first.close().await;
    drop(first);
    open(directory.path()).await.close().await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_and_left_alone() {
    let directory = directory();
    let file = directory.path().join("data/queue.db");
    std::fs::create_dir(directory.path().join("data")).unwrap();
    let content = "this is somebody's diary, and it is long enough to be looked at. ".repeat(100);
    std::fs::write(&file, &content).unwrap();
    let text = refusal(directory.path()).await.to_string();
    assert!(text.contains("queue.db is not a database"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let directory = directory();
    std::fs::create_dir(directory.path().join("data")).unwrap();
    let file = directory.path().join("data/store.db");
    run_sql(&file, &["create table diary (day text)"]).await;
    let text = refusal(directory.path()).await.to_string();
    assert!(
        text.contains("store.db is a database of another program"),
        "{text}"
    );
}

#[tokio::test]
async fn a_later_schema_is_refused_and_left_alone() {
    let directory = directory();
    open(directory.path()).await.close().await;
    let file = directory.path().join("data/store.db");
    run_sql(&file, &["insert into seaql_migrations values ('m0099_later', 0)"]).await;
    let text = refusal(directory.path()).await.to_string();
    assert!(
        text.contains("store.db was written by a later version") && text.contains("m0099_later"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unfinished_schema_is_finished() {
    let directory = directory();
    open(directory.path()).await.close().await;
    let file = directory.path().join("data/store.db");
    run_sql(
        &file,
        &[
            "delete from seaql_migrations",
            "drop table messages",
            "drop table message_counts",
            "drop table idempotency_keys",
        ],
    )
    .await;
    let embedded = open(directory.path()).await;
    embedded.store().store(&messages(3)).await.unwrap();
    embedded.close().await;
}

#[tokio::test]
async fn a_path_that_cannot_be_a_directory_is_refused_with_the_setting() {
    let directory = directory();
    std::fs::write(directory.path().join("data"), "a file").unwrap();
    let text = refusal(directory.path()).await.to_string();
    assert!(text.contains("embedded.path"), "{text}");

    let below_a_file = EmbeddedConfig {
        path: directory.path().join("data/below"),
        ..EmbeddedConfig::default()
    };
    let error = Embedded::open(below_a_file, None).await.unwrap_err();
    assert!(matches!(error, OpenError::Directory { .. }), "{error:?}");
}

#[tokio::test]
async fn a_directory_that_may_not_be_written_is_refused_with_the_setting() {
    // Permissions do not bind root, but no one writes into /proc.
    let nowhere = EmbeddedConfig {
        path: "/proc/self/task".into(),
        ..EmbeddedConfig::default()
    };
    let error = Embedded::open(nowhere, None).await.unwrap_err();
    assert!(matches!(error, OpenError::Directory { .. }), "{error:?}");
    assert!(error.to_string().contains("/proc/"), "{error}");
    assert!(error.to_string().contains("embedded.path"), "{error}");
}

#[tokio::test]
async fn a_path_with_signs_that_mean_something_in_urls_is_a_path_like_any_other() {
    let directory = directory();
    let odd = EmbeddedConfig {
        path: directory.path().join("50% off? #1 & ü"),
        ..EmbeddedConfig::default()
    };
    let embedded = Embedded::open(odd.clone(), None).await.unwrap();
    let sent = messages(3);
    publish(&embedded, &sent).await;
    take(&mut *embedded.consumer(ConsumerGroup::Store), 3).await;
    embedded.close().await;
    assert!(odd.path.join("queue.db").exists());
}
