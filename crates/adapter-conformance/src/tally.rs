//! The contract of [`TallyBook`]: each message counts once, whatever dies in between.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;
use tokio::time::timeout;
use warren_domain::ports::{Countable, Counted, TallyBook};
use warren_domain::{MessageId, Severity, SeverityCounts, Timestamp};

use crate::PATIENCE;

/// A book to be tried, isolated from every other test.
#[async_trait]
pub trait TallyUnderTest: Send + Sync + 'static {
    /// Returns the book.
    fn book(&self) -> Arc<dyn TallyBook>;

    /// Opens the same book once more, as another process would; `None` where that is not possible.
    async fn another(&self) -> Option<Arc<dyn TallyBook>>;

    /// Ends the book without ceremony, as a crash does, and opens it again.
    async fn reopened(&self) -> Arc<dyn TallyBook>;

    /// Returns how many ids the book remembers; the suite counts a few times as many.
    fn window(&self) -> usize;

    /// Removes what the test left behind.
    async fn tear_down(&self);
}

/// Runs every test of the book's contract on what `$make` yields.
#[macro_export]
macro_rules! tally_suite {
    ($make:expr) => {
        $crate::suite!(
            tally,
            $make,
            a_new_book_has_counted_nothing,
            each_message_counts_once_by_its_severity,
            a_batch_of_nothing_changes_nothing,
            a_batch_counted_again_adds_duplicates_only,
            an_id_twice_in_a_batch_counts_once,
            the_time_of_the_last_count_is_kept_by_severity,
            concurrent_batches_that_overlap_count_each_id_once,
            the_last_ids_are_remembered_and_those_beyond_the_window_count_again,
            a_reopened_book_goes_on_where_it_was,
            openers_of_one_book_share_its_counts_and_its_window,
            openers_that_count_at_once_count_each_id_once,
            a_future_that_is_dropped_counts_its_batch_whole_or_not_at_all,
        );
    };
}

#[doc(hidden)]
pub async fn tear_down(book: &dyn TallyUnderTest) {
    book.tear_down().await;
}

fn batch(count: usize) -> Vec<Countable> {
    (0..count)
        .map(|n| Countable {
            identity: MessageId::generate().as_uuid().as_u128(),
            severity: Severity::ALL[n % 5],
        })
        .collect()
}

fn counts(batch: &[Countable]) -> SeverityCounts {
    batch.iter().map(|message| message.severity).collect()
}

/// Counts a batch; a book that another opener writes may say no for a while.
async fn count(book: &dyn TallyBook, batch: &[Countable]) -> Counted {
    let counting = async {
        loop {
            match book.count(batch).await {
                Ok(counted) => return counted,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    timeout(PATIENCE, counting)
        .await
        .expect("the batch is counted in time")
}

/// Asserts what became of a batch, and that the totals are those of `counted` and `duplicates`.
fn assert_outcome(outcome: &Counted, counted: &[Countable], duplicates: &[Countable]) {
    assert_eq!(outcome.counted, counts(counted));
    assert_eq!(outcome.duplicates, counts(duplicates));
}

pub async fn a_new_book_has_counted_nothing(subject: &dyn TallyUnderTest) {
    assert_eq!(subject.book().tally().await.unwrap(), Default::default());
}

pub async fn each_message_counts_once_by_its_severity(subject: &dyn TallyUnderTest) {
    let (book, first, second) = (subject.book(), batch(7), batch(100));
    let outcome = book.count(&first).await.unwrap();
    assert_outcome(&outcome, &first, &[]);
    assert_eq!(outcome.tally.counts, counts(&first));
    let outcome = book.count(&second).await.unwrap();
    assert_outcome(&outcome, &second, &[]);
    assert_eq!(outcome.tally.counts, counts(&[first, second].concat()));
    assert_eq!(book.tally().await.unwrap(), outcome.tally);
}

pub async fn a_batch_of_nothing_changes_nothing(subject: &dyn TallyUnderTest) {
    let (book, some) = (subject.book(), batch(3));
    let before = book.count(&some).await.unwrap().tally;
    let outcome = book.count(&[]).await.unwrap();
    assert_outcome(&outcome, &[], &[]);
    assert_eq!(outcome.tally, before);
}

pub async fn a_batch_counted_again_adds_duplicates_only(subject: &dyn TallyUnderTest) {
    let (book, some) = (subject.book(), batch(50));
    book.count(&some).await.unwrap();
    for again in 1..=3 {
        let outcome = book.count(&some).await.unwrap();
        assert_outcome(&outcome, &[], &some);
        assert_eq!(outcome.tally.counts, counts(&some));
        assert_eq!(outcome.tally.duplicates.total(), 50 * again);
    }
}

pub async fn an_id_twice_in_a_batch_counts_once(subject: &dyn TallyUnderTest) {
    let some = batch(20);
    let twice: Vec<_> = some.iter().flat_map(|message| [*message, *message]).collect();
    let outcome = subject.book().count(&twice).await.unwrap();
    assert_outcome(&outcome, &some, &some);
}

pub async fn the_time_of_the_last_count_is_kept_by_severity(subject: &dyn TallyUnderTest) {
    let book = subject.book();
    let message = |severity| Countable {
        identity: MessageId::generate().as_uuid().as_u128(),
        severity,
    };
    let (first, before) = (message(Severity::Error), Timestamp::now());
    let tally = book.count(&[first]).await.unwrap().tally;
    let error = tally.last_counted[Severity::Error.index()].unwrap();
    assert!(before <= error && error <= Timestamp::now());
    assert_eq!(tally.last_counted.iter().flatten().count(), 1);
    let tally = book.count(&[first]).await.unwrap().tally;
    assert_eq!(
        tally.last_counted[Severity::Error.index()],
        Some(error),
        "a duplicate is not counted"
    );
    let tally = book.count(&[message(Severity::Debug)]).await.unwrap().tally;
    assert!(tally.last_counted[0] >= Some(error));
    assert_eq!(tally.last_counted[Severity::Error.index()], Some(error));
}

pub async fn concurrent_batches_that_overlap_count_each_id_once(subject: &dyn TallyUnderTest) {
    let books = vec![subject.book(); 8];
    overlapping(books, subject.window().min(1_000)).await;
}

/// Counts the same ids through every book at once, each in an order of its own.
async fn overlapping(books: Vec<Arc<dyn TallyBook>>, ids: usize) {
    let (all, last) = (batch(ids), Arc::clone(&books[0]));
    let mut writers = JoinSet::new();
    for (writer, book) in books.into_iter().enumerate() {
        let mut mine = all.clone();
        mine.rotate_left(writer * ids / 8);
        if writer % 2 == 1 {
            mine.reverse();
        }
        writers.spawn(async move {
            let mut counted = SeverityCounts::default();
            for batch in mine.chunks(90) {
                counted += count(&*book, batch).await.counted;
            }
            counted
        });
    }
    let mut counted = SeverityCounts::default();
    for mine in writers.join_all().await {
        counted += mine;
    }
    assert_eq!(counted, counts(&all), "each id was reported as counted once");
    assert_eq!(last.tally().await.unwrap().counts, counts(&all));
}

pub async fn the_last_ids_are_remembered_and_those_beyond_the_window_count_again(
    subject: &dyn TallyUnderTest,
) {
    let (book, window) = (subject.book(), subject.window());
    let (old, new) = (batch(10), batch(window));
    book.count(&old).await.unwrap();
    for part in new.chunks(window / 3) {
        assert_outcome(&book.count(part).await.unwrap(), part, &[]);
    }
    for part in new.chunks(window / 2) {
        assert_outcome(&book.count(part).await.unwrap(), &[], part);
    }
    assert_outcome(&book.count(&old).await.unwrap(), &old, &[]);
}

pub async fn a_reopened_book_goes_on_where_it_was(subject: &dyn TallyUnderTest) {
    let window = subject.window();
    let (old, new) = (batch(window / 2), batch(window));
    for part in old.chunks(100).chain(new.chunks(100)) {
        subject.book().count(part).await.unwrap();
    }
    let before = subject.book().tally().await.unwrap();
    let book = subject.reopened().await;
    assert_eq!(book.tally().await.unwrap(), before);
    assert_outcome(&book.count(&new).await.unwrap(), &[], &new);
    assert_outcome(&book.count(&old).await.unwrap(), &old, &[]);
}

pub async fn openers_of_one_book_share_its_counts_and_its_window(subject: &dyn TallyUnderTest) {
    let Some(another) = subject.another().await else {
        return;
    };
    let (book, window) = (subject.book(), subject.window());
    let (first, second) = (batch(30), batch(20));
    book.count(&first).await.unwrap();
    let outcome = another
        .count(&[first.clone(), second.clone()].concat())
        .await
        .unwrap();
    assert_outcome(&outcome, &second, &first);
    let outcome = book.count(&second).await.unwrap();
    assert_outcome(&outcome, &[], &second);
    assert_eq!(another.tally().await.unwrap(), outcome.tally);
    // One runs far ahead of the other, beyond its window, and what it forgot is forgotten by both.
    let many = batch(window * 2);
    for part in many.chunks(window / 2) {
        count(&*book, part).await;
    }
    let last = &many[window..];
    assert_outcome(&another.count(last).await.unwrap(), &[], last);
    assert_outcome(&another.count(&first).await.unwrap(), &first, &[]);
}

pub async fn openers_that_count_at_once_count_each_id_once(subject: &dyn TallyUnderTest) {
    let Some(another) = subject.another().await else {
        return;
    };
    let books = [subject.book(), another];
    let books = books.iter().cycle().take(8).cloned().collect();
    overlapping(books, subject.window().min(1_000)).await;
}

pub async fn a_future_that_is_dropped_counts_its_batch_whole_or_not_at_all(subject: &dyn TallyUnderTest) {
    let book = subject.book();
    for micros in [0, 100, 300, 1_000, 2_000, 4_000, 8_000] {
        let some = batch(subject.window() / 10);
        let _ended = timeout(Duration::from_micros(micros), book.count(&some)).await;
        let again = count(&*book, &some).await;
        let whole = |outcome: &Counted| outcome.counted == counts(&some) && outcome.duplicates.total() == 0;
        let not = |outcome: &Counted| outcome.duplicates == counts(&some) && outcome.counted.total() == 0;
        assert!(
            whole(&again) || not(&again),
            "a part of it was counted: {again:?}"
        );
    }
}
