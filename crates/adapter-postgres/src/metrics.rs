//! What this adapter measures.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use warren_domain::ports::StoreError;

pub(crate) const STORE_SECONDS: &str = "warren_postgres_store_seconds";
pub(crate) const CONFLICTS: &str = "warren_postgres_copy_conflicts_total";
pub(crate) const MAINTENANCE_SECONDS: &str = "warren_postgres_maintenance_seconds";
pub(crate) const MOVED: &str = "warren_postgres_rows_moved_total";
pub(crate) const FOLDED: &str = "warren_postgres_count_deltas_folded_total";
pub(crate) const FORGOTTEN: &str = "warren_postgres_idempotency_tokens_forgotten_total";
pub(crate) const INDEXED: &str = "warren_postgres_words_indexed_total";
pub(crate) const DUE_MINUTES: &str = "warren_postgres_words_due_minutes";
pub(crate) const DUE_SECONDS: &str = "warren_postgres_words_due_seconds";
pub(crate) const UNUSABLE: &str = "warren_postgres_words_unusable_total";
const CONNECTIONS: &str = "warren_postgres_connections";
const CONNECTS: &str = "warren_postgres_connects_total";
const ERRORS: &str = "warren_postgres_errors_total";

/// Describes every metric of this adapter to the recorder that is installed.
pub fn describe_metrics() {
    describe_histogram!(
        STORE_SECONDS,
        Unit::Seconds,
        "Time to store a batch in PostgreSQL, waiting for a connection not included; path: copy or unnest"
    );
    describe_counter!(
        CONFLICTS,
        Unit::Count,
        "Batches that met a message already stored during COPY and were repeated"
    );
    describe_gauge!(
        CONNECTIONS,
        Unit::Count,
        "Open connections to PostgreSQL, sea-orm's not included"
    );
    describe_counter!(CONNECTS, Unit::Count, "Connections opened to PostgreSQL");
    describe_counter!(
        ERRORS,
        Unit::Count,
        "Failed calls; class: unavailable (wait), misconfigured (an operator must act) or rejected (a message)"
    );
    describe_histogram!(
        MAINTENANCE_SECONDS,
        Unit::Seconds,
        "Time of a round of maintenance; outcome: done, busy (another process is at it) or failed"
    );
    describe_counter!(
        MOVED,
        Unit::Count,
        "Rows moved from the default partition into one made for their day"
    );
    describe_counter!(
        FOLDED,
        Unit::Count,
        "Appended count rows that the maintenance has folded into the counts by minute"
    );
    describe_counter!(
        INDEXED,
        Unit::Count,
        "Messages read to make the filters that searches for words are quick with, those of a minute made anew included"
    );
    describe_gauge!(
        DUE_MINUTES,
        Unit::Count,
        "Minutes that are over and have no filters that are right, as the last round of maintenance left them; 0 where another process maintains"
    );
    describe_gauge!(
        DUE_SECONDS,
        Unit::Seconds,
        "How long ago the oldest of these minutes ended, with the time in which no filters are made yet left out"
    );
    describe_counter!(
        UNUSABLE,
        Unit::Count,
        "Searches for words that went on without filters, because these could not be read"
    );
    describe_counter!(
        FORGOTTEN,
        Unit::Count,
        "Tokens of keyed messages removed because postgres.idempotency_keep was over"
    );
}

/// Counts a failed call, and hands the error on.
pub(crate) fn failed(error: StoreError) -> StoreError {
    let class = match &error {
        StoreError::Unavailable { .. } => "unavailable",
        StoreError::Misconfigured { .. } => "misconfigured",
        StoreError::Rejected { .. } => "rejected",
    };
    counter!(ERRORS, "class" => class).increment(1);
    error
}

/// An open connection, counted for as long as it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(());

impl OpenConnection {
    pub(crate) fn count() -> Self {
        gauge!(CONNECTIONS).increment(1);
        counter!(CONNECTS).increment(1);
        Self(())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        gauge!(CONNECTIONS).decrement(1);
    }
}
