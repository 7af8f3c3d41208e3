//! Reads messages back, through sea-orm.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::{
    ColumnTrait, DatabaseConnection, DbErr, EntityTrait, ExprTrait, FromQueryResult, QueryFilter, QuerySelect,
};
use tokio::time::timeout;
use warren_domain::ports::StoreError;
use warren_domain::{Message, MessageId, Severity, SeverityCounts, Timestamp};

use crate::config::{PostgresConfig, SessionLimits};
use crate::entity::{message, message_count};
use crate::error::{from_orm, misconfigured, unavailable};
use crate::orm;
use crate::session::Connector;

/// How many connections read at once.
const CONNECTIONS: u32 = 2;

/// Reads messages and counts, on connections of its own, so that readers never hold writers up.
#[derive(Clone, Debug)]
pub struct PostgresReader {
    orm: DatabaseConnection,
    place: Arc<str>,
    /// How long one exchange may take: longer than sea-orm waits for a connection and PostgreSQL lets a statement run,
    /// neither of which ends when the server has gone silent.
    limit: Duration,
}

impl PostgresReader {
    /// Connects and checks the schema.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the server does not answer in time, [`StoreError::Misconfigured`] when settings,
    /// rights or the schema are wrong.
    pub async fn connect(config: &PostgresConfig) -> Result<Self, StoreError> {
        let connector = Connector::new(config).map_err(|error| StoreError::Misconfigured {
            reason: error.to_string(),
            cause: None,
        })?;
        connector
            .open(SessionLimits::writing(config))
            .await?
            .close()
            .await;
        let orm = orm::connect(&connector, CONNECTIONS, orm::Limits::reading(config)).await?;
        Ok(Self {
            orm,
            place: connector.place().into(),
            limit: config.acquire_timeout + SessionLimits::writing(config).client_side(),
        })
    }

    /// Returns those of the messages with these ids that are stored, by ascending id.
    ///
    /// # Errors
    /// As [`PostgresReader::connect`]; [`StoreError::Misconfigured`] also for a row that Warren did not write.
    pub async fn find(&self, ids: &[MessageId]) -> Result<Vec<Message>, StoreError> {
        // PostgreSQL takes 65,535 parameters a statement.
        const MOST: usize = 10_000;
        let mut messages = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MOST) {
            let ids = ids.iter().map(|id| id.as_uuid());
            let found = message::Entity::find().filter(message::Column::Id.is_in(ids));
            let rows = self.within(found.all(&self.orm)).await?;
            for row in rows {
                let message = row.into_message().map_err(|foreign| {
                    misconfigured(
                        &self.place,
                        "a row of messages is not Warren's",
                        Some(Arc::new(foreign)),
                    )
                })?;
                messages.push(message);
            }
        }
        messages.sort_unstable_by_key(|message| message.id);
        messages.dedup_by_key(|message| message.id);
        Ok(messages)
    }

    /// Returns how many messages there are of each severity in the minutes from the one that starts at or after
    /// `from` to the last that starts before `to`; a message belongs to the minute in its id.
    ///
    /// # Errors
    /// As [`PostgresReader::connect`].
    pub async fn counts(&self, from: Timestamp, to: Timestamp) -> Result<SeverityCounts, StoreError> {
        #[derive(FromQueryResult)]
        struct Sum {
            severity: i16,
            count: i64,
        }
        let summed = message_count::Entity::find()
            .select_only()
            .column(message_count::Column::Severity)
            .column_as(message_count::Column::Count.sum().cast_as("bigint"), "count")
            .filter(message_count::Column::Minute.gte(moment(from)))
            .filter(message_count::Column::Minute.lt(moment(to)))
            .group_by(message_count::Column::Severity)
            .into_model::<Sum>();
        let sums = self.within(summed.all(&self.orm)).await?;
        let mut counts = SeverityCounts::default();
        for sum in sums {
            let severity = u8::try_from(sum.severity).ok().and_then(Severity::from_number);
            if let (Some(severity), Ok(count)) = (severity, u64::try_from(sum.count)) {
                counts.add(severity, count);
            }
        }
        Ok(counts)
    }

    /// Closes the connections.
    ///
    /// # Errors
    /// As [`PostgresReader::connect`].
    pub async fn close(self) -> Result<(), StoreError> {
        self.within(self.orm.close_by_ref()).await
    }

    async fn within<T>(&self, exchange: impl Future<Output = Result<T, DbErr>>) -> Result<T, StoreError> {
        match timeout(self.limit, exchange).await {
            Ok(outcome) => outcome.map_err(|error| from_orm(error, &self.place)),
            Err(_) => {
                let fault = format!("no answer within {:?}", self.limit);
                Err(unavailable(&self.place, &fault))
            }
        }
    }
}

fn moment(timestamp: Timestamp) -> time::OffsetDateTime {
    let nanos = i128::from(timestamp.unix_micros()) * 1_000;
    time::OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}
