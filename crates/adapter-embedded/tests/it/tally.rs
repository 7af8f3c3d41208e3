//! The book of counts on real files.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tempfile::TempDir;
use warren_adapter_conformance::tally::TallyUnderTest;
use warren_adapter_embedded::{EmbeddedTally, OpenError};
use warren_domain::ports::{Countable, TallyBook};
use warren_domain::{MessageId, Severity};

use crate::opening::{count, run_sql};
use crate::support::directory;

const WINDOW: usize = 3_000;

async fn try_open(folder: &Path, window: usize) -> Result<EmbeddedTally, OpenError> {
    EmbeddedTally::open(folder, &"error".parse().unwrap(), window, "tally.path").await
}

async fn open(folder: &Path, window: usize) -> EmbeddedTally {
    try_open(folder, window).await.unwrap()
}

fn batch(count: usize) -> Vec<Countable> {
    (0..count)
        .map(|_| Countable {
            identity: MessageId::generate().as_uuid().as_u128(),
            severity: Severity::Error,
        })
        .collect()
}

struct Subject {
    books: Mutex<Vec<Arc<EmbeddedTally>>>,
    directory: TempDir,
}

async fn fresh() -> Arc<Subject> {
    let directory = directory();
    let book = Arc::new(open(directory.path(), WINDOW).await);
    Arc::new(Subject {
        books: Mutex::new(vec![book]),
        directory,
    })
}

#[async_trait]
impl TallyUnderTest for Subject {
    fn book(&self) -> Arc<dyn TallyBook> {
        Arc::clone(&self.books.lock().unwrap()[0]) as _
    }

    async fn another(&self) -> Option<Arc<dyn TallyBook>> {
        let book = Arc::new(open(self.directory.path(), WINDOW).await);
        self.books.lock().unwrap().push(Arc::clone(&book));
        Some(book)
    }

    async fn reopened(&self) -> Arc<dyn TallyBook> {
        self.books.lock().unwrap().clear();
        let book = Arc::new(open(self.directory.path(), WINDOW).await);
        self.books.lock().unwrap().push(Arc::clone(&book));
        book
    }

    fn window(&self) -> usize {
        WINDOW
    }

    async fn tear_down(&self) {
        let books: Vec<_> = self.books.lock().unwrap().drain(..).collect();
        for book in books {
            book.close().await;
        }
    }
}

warren_adapter_conformance::tally_suite!(fresh());

#[tokio::test(flavor = "multi_thread")]
async fn many_openers_of_a_new_folder_do_not_hinder_each_other() {
    let directory = directory();
    let folder = directory.path().join("deep/books");
    let mut openers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let folder = folder.clone();
        openers.spawn(async move {
            let book = open(&folder, 100).await;
            book.count(&batch(5)).await.unwrap();
            book
        });
    }
    let books = openers.join_all().await;
    assert_eq!(books[0].tally().await.unwrap().counts.total(), 40);
}

#[tokio::test]
async fn the_file_keeps_no_more_ids_than_the_window_needs() {
    let directory = directory();
    let book = open(directory.path(), 1_000).await;
    for _ in 0..50 {
        book.count(&batch(300)).await.unwrap();
    }
    book.close().await;
    let file = directory.path().join("error.db");
    let kept = count(&file, "select sum(length(ids)) / 16 from counted").await;
    assert!((1_000..1_300).contains(&kept), "{kept}");
    assert_eq!(
        count(&file, "select messages from totals where severity = 17").await,
        15_000
    );
    assert!(
        !directory.path().join("error.db-wal").exists(),
        "the log is in the file"
    );
}

#[tokio::test]
async fn a_smaller_window_forgets_and_a_larger_one_learns() {
    let directory = directory();
    let ids = batch(1_000);
    let book = open(directory.path(), 1_000).await;
    book.count(&ids).await.unwrap();
    book.close().await;
    let book = open(directory.path(), 100).await;
    let outcome = book.count(&ids[900..]).await.unwrap();
    assert_eq!(outcome.duplicates.total(), 100);
    let outcome = book.count(&ids[..100]).await.unwrap();
    assert_eq!(outcome.counted.total(), 100, "beyond the smaller window");
    book.close().await;
    let book = open(directory.path(), 5_000).await;
    assert_eq!(book.count(&ids[..100]).await.unwrap().duplicates.total(), 100);
}

#[tokio::test]
async fn a_file_that_is_no_book_is_named_with_the_setting_and_left_alone() {
    let directory = directory();
    let file = directory.path().join("error.db");
    let content = "this is somebody's diary, and it is long enough to be looked at. ".repeat(100);
    std::fs::write(&file, &content).unwrap();
    let text = try_open(directory.path(), 10).await.unwrap_err().to_string();
    assert!(
        text.contains("error.db is not a database") && text.contains("tally.path"),
        "{text}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), content);
    std::fs::remove_file(&file).unwrap();
    run_sql(&file, &["create table diary (day text)"]).await;
    let text = try_open(directory.path(), 10).await.unwrap_err().to_string();
    assert!(text.contains("a database of another program"), "{text}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named_with_the_setting() {
    for folder in ["/proc/self/task/books", "/proc/self/task"] {
        let text = try_open(Path::new(folder), 10).await.unwrap_err().to_string();
        assert!(
            text.contains("/proc/self/task") && text.contains("tally.path"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_later_schema_is_refused_and_an_unfinished_one_finished() {
    let directory = directory();
    open(directory.path(), 10).await.close().await;
    let file = directory.path().join("error.db");
    run_sql(
        &file,
        &[
            "delete from seaql_migrations",
            "drop table totals",
            "drop table counted",
        ],
    )
    .await;
    let book = open(directory.path(), 10).await;
    book.count(&batch(3)).await.unwrap();
    book.close().await;
    run_sql(&file, &["insert into seaql_migrations values ('m0099_later', 0)"]).await;
    let text = try_open(directory.path(), 10).await.unwrap_err().to_string();
    assert!(text.contains("error.db was written by a later version"), "{text}");
}

#[tokio::test]
async fn a_damaged_book_is_refused_when_it_is_opened_and_when_it_is_written() {
    for damage in [
        "delete from counted",
        "update counted set ids = x'00'",
        "update totals set messages = messages + 1 where severity = 17",
        "update totals set messages = -1",
        "delete from totals where severity = 5",
    ] {
        let directory = directory();
        let file = directory.path().join("error.db");
        let book = open(directory.path(), 10).await;
        book.count(&batch(3)).await.unwrap();
        run_sql(&file, &[damage]).await;
        if !damage.contains("counted") {
            let text = book.count(&batch(1)).await.unwrap_err().to_string();
            assert!(text.contains("error.db is damaged"), "{damage}: {text}");
        }
        book.close().await;
        let text = try_open(directory.path(), 10).await.unwrap_err().to_string();
        assert!(
            text.contains("error.db is a damaged book of counts"),
            "{damage}: {text}"
        );
    }
}

#[tokio::test]
async fn a_book_that_another_program_holds_is_waited_for_and_then_an_error() {
    let directory = directory();
    let book = open(directory.path(), 10).await;
    let file = directory.path().join("error.db");
    let other = crate::opening::connect(&file).await;
    crate::opening::execute(&other, "begin immediate").await;
    let ids = batch(3);
    let text = book.count(&ids).await.unwrap_err().to_string();
    assert!(
        text.contains("error.db cannot be written at the moment"),
        "{text}"
    );
    crate::opening::execute(&other, "rollback").await;
    assert_eq!(book.count(&ids).await.unwrap().counted.total(), 3);
}

#[tokio::test]
async fn a_closed_book_says_so() {
    let directory = directory();
    let book = open(directory.path(), 10).await;
    book.close().await;
    book.close().await;
    for error in [
        book.count(&batch(1)).await.unwrap_err(),
        book.tally().await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("error.db is closed"), "{error}");
    }
}
