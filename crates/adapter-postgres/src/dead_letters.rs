//! Where dead letters are kept, through sea-orm.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, Func, OnConflict, Order, Query};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait,
    ExprTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, TransactionTrait,
};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use uuid::Uuid;
use warren_domain::ports::{
    DeadLetter, DeadLetterCounts, DeadLetterFilter, DeadLetterId, DeadLetterPlace, DeadLetters,
    DeadLettersError, KeptLetter, MOST_LISTED, Revision, StoreError,
};

use crate::config::{ConfigError, PostgresConfig, SessionLimits};
use crate::entity::dead_letter::{ActiveModel, Column, Entity, LISTED, Listed, Shown, moment};
use crate::error::{from_orm, unavailable};
use crate::metrics::failed;
use crate::orm;
use crate::session::Connector;

/// How many connections look at letters at once, while one keeps them.
const CONNECTIONS: u32 = 2;

/// How many rows one statement writes: sixteen parameters each, of which PostgreSQL takes 65,535.
const MOST_ROWS: usize = 500;

/// How many bytes of letters one statement writes, but for one larger letter: a statement lies in memory twice.
const MOST_BYTES: usize = 8 << 20;

/// The newest state of some letters; before its version 18, PostgreSQL has no `max` of a `uuid`.
const NEWEST: &str = "max(revision::text collate \"C\")::uuid";

/// Keeps dead letters in the table `dead_letters`, on connections of its own.
///
/// A call takes at most `postgres.acquire_timeout` and `postgres.statement_timeout` for each of its statements, and
/// `postgres.connect_timeout` when it is the first.
#[derive(Debug)]
pub struct PostgresDeadLetters {
    connector: Connector,
    config: PostgresConfig,
    orm: OnceCell<DatabaseConnection>,
    limit: Duration,
}

impl PostgresDeadLetters {
    /// Checks the settings; connects when it is first asked for something.
    ///
    /// # Errors
    /// Every setting that cannot be used.
    pub fn new(config: PostgresConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            connector: Connector::new(&config)?,
            limit: config.acquire_timeout + SessionLimits::writing(&config).client_side(),
            config,
            orm: OnceCell::new(),
        })
    }

    /// Closes the connections.
    pub async fn close(&self) {
        if let Some(orm) = self.orm.get()
            && timeout(self.limit, orm.close_by_ref()).await.is_err()
        {
            tracing::debug!("PostgreSQL did not take leave in time");
        }
    }

    /// Returns sea-orm's connections; the first time it connects and looks whether the schema is there.
    async fn orm(&self) -> Result<&DatabaseConnection, DeadLettersError> {
        let connecting = async {
            let looking = self.connector.open(SessionLimits::writing(&self.config));
            looking.await?.close().await;
            orm::connect(&self.connector, CONNECTIONS, orm::Limits::reading(&self.config)).await
        };
        let connected = Box::pin(self.orm.get_or_try_init(|| connecting));
        connected.await.map_err(|error| failed(error).into())
    }

    async fn within<T>(
        &self,
        exchange: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, DeadLettersError> {
        let place = self.connector.place();
        let outcome: Result<T, StoreError> = match timeout(self.limit, exchange).await {
            Ok(outcome) => outcome.map_err(|error| from_orm(error, place)),
            Err(_) => Err(unavailable(place, &format!("no answer within {:?}", self.limit))),
        };
        outcome.map_err(|error| failed(error).into())
    }
}

#[async_trait]
impl DeadLetters for PostgresDeadLetters {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPlace>,
        limit: usize,
    ) -> Result<Vec<KeptLetter>, DeadLettersError> {
        let mut listing = Entity::find()
            .select_only()
            .columns(LISTED)
            .expr_as(Expr::cust("octet_length(content)::bigint"), "bytes")
            .filter(condition(filter))
            .order_by(Column::LastAt, Order::Desc)
            .order_by(Column::Id, Order::Desc)
            .limit(limit.min(MOST_LISTED) as u64);
        if let Some(DeadLetterPlace { last_at, id }) = after {
            let here = Expr::tuple([Column::LastAt.into_expr(), Column::Id.into_expr()]);
            let there = Expr::tuple([Expr::value(moment(last_at)), Expr::value(id.as_uuid())]);
            listing = listing.filter(here.lt(there));
        }
        let listing = listing.into_model::<Listed>();
        let rows = self.within(listing.all(self.orm().await?)).await?;
        Ok(rows.into_iter().map(KeptLetter::from).collect())
    }

    async fn read(&self, ids: &[DeadLetterId]) -> Result<Vec<(KeptLetter, Vec<u8>)>, DeadLettersError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids = ids.iter().take(MOST_LISTED).map(|id| id.as_uuid());
        let reading = Entity::find().filter(Column::Id.is_in(ids));
        let rows = self.within(reading.all(self.orm().await?)).await?;
        Ok(rows.into_iter().map(|row| row.into_letter()).collect())
    }

    async fn show(
        &self,
        id: DeadLetterId,
        most: usize,
    ) -> Result<Option<(KeptLetter, Vec<u8>)>, DeadLettersError> {
        let most = i32::try_from(most).unwrap_or(i32::MAX);
        let reading = Entity::find()
            .select_only()
            .columns(LISTED)
            .expr_as(Expr::cust("octet_length(content)::bigint"), "bytes")
            .expr_as(
                Expr::cust_with_values("substring(content for $1)", [most]),
                "content",
            )
            .filter(Column::Id.eq(id.as_uuid()))
            .into_model::<Shown>();
        let row = self.within(reading.one(self.orm().await?)).await?;
        Ok(row.map(|Shown { listed, content }| (listed.into(), content)))
    }

    async fn count(&self, filter: &DeadLetterFilter) -> Result<DeadLetterCounts, DeadLettersError> {
        #[derive(FromQueryResult)]
        struct Sum {
            reason: String,
            letters: i64,
            newest: Uuid,
        }
        let counting = Entity::find()
            .select_only()
            .column(Column::Reason)
            .column_as(Column::Id.count(), "letters")
            .expr_as(Expr::cust(NEWEST), "newest")
            .filter(condition(filter))
            .group_by(Column::Reason)
            .into_model::<Sum>();
        let sums = self.within(counting.all(self.orm().await?)).await?;
        let newest = sums.iter().map(|sum| Revision::from_uuid(sum.newest)).max();
        let by_reason: BTreeMap<_, _> = sums
            .into_iter()
            .map(|sum| (sum.reason, sum.letters.unsigned_abs()))
            .collect();
        Ok(DeadLetterCounts { by_reason, newest })
    }

    async fn keep(&self, letters: &[DeadLetter]) -> Result<(), DeadLettersError> {
        if letters.is_empty() {
            return Ok(());
        }
        let keeping = async {
            let transaction = self.begin().await?;
            for part in parts(letters) {
                let keeping = write(&transaction, &part);
                self.within(keeping).await?;
            }
            self.within(transaction.commit()).await
        };
        keeping.await
    }

    async fn remove(&self, letters: &[(DeadLetterId, Revision)]) -> Result<u64, DeadLettersError> {
        if letters.is_empty() {
            return Ok(0);
        }
        let here = Expr::tuple([Column::Id.into_expr(), Column::Revision.into_expr()]);
        let rows = letters
            .iter()
            .take(MOST_LISTED)
            .map(|(id, revision)| (id.as_uuid(), revision.as_uuid()));
        let delete = Query::delete()
            .from_table(Entity)
            .and_where(here.in_tuples(rows))
            .to_owned();
        let orm = self.orm().await?;
        let removed = self.within(orm.execute(&delete)).await?;
        Ok(removed.rows_affected())
    }

    async fn check_writable(&self) -> Result<(), DeadLettersError> {
        // A standby is read-only as well.
        let asking = Query::select()
            .expr_as(
                Expr::cust("current_setting('transaction_read_only')::bool"),
                "read_only",
            )
            .expr_as(Expr::cust("pg_is_in_recovery()"), "standby")
            .to_owned();
        let orm = self.orm().await?;
        let told = async {
            let row = orm.query_one(&asking).await?;
            let row = row.ok_or_else(|| DbErr::RecordNotFound("no answer".to_owned()))?;
            Ok((row.try_get("", "read_only")?, row.try_get("", "standby")?))
        };
        let (read_only, standby): (bool, bool) = self.within(told).await?;
        if !read_only {
            return Ok(());
        }
        let what = if standby {
            "is a standby"
        } else {
            "takes no writes"
        };
        let place = self.connector.place();
        let reason = format!(
            "PostgreSQL at {place} {what}; a program whose postgres.url leads to the primary can remove them"
        );
        Err(DeadLettersError::ReadOnly { reason })
    }
}

impl PostgresDeadLetters {
    /// Begins a transaction whose commit is durable, as a writing session's are.
    async fn begin(&self) -> Result<DatabaseTransaction, DeadLettersError> {
        let orm = self.orm().await?;
        let transaction = self.within(orm.begin()).await?;
        let durable = "select set_config('synchronous_commit', 'on', true) \
                       where current_setting('synchronous_commit') = 'off'";
        self.within(transaction.execute_unprepared(durable)).await?;
        Ok(transaction)
    }
}

/// Splits letters into what fits a statement each, in which no letter comes twice; of equal deaths one is left.
///
/// Sorted by id, so that two who keep the same letters wait for each other instead of dying in a deadlock.
fn parts(letters: &[DeadLetter]) -> Vec<Vec<&DeadLetter>> {
    // The first deaths of all letters, then the second ones, and so on.
    let mut rounds: Vec<BTreeMap<DeadLetterId, &DeadLetter>> = Vec::new();
    let (mut known, mut deaths) = (HashSet::new(), HashMap::new());
    for letter in letters {
        let id = letter.facts.id;
        if !known.insert((id, letter.death)) {
            continue;
        }
        let round = deaths.entry(id).or_insert(0_usize);
        match rounds.get_mut(*round) {
            Some(round) => {
                round.insert(id, letter);
            }
            None => rounds.push(BTreeMap::from([(id, letter)])),
        }
        *round += 1;
    }
    let mut parts = Vec::new();
    for round in rounds {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for letter in round.into_values() {
            let full = part.len() == MOST_ROWS || bytes + letter.content.len() > MOST_BYTES;
            if full && !part.is_empty() {
                parts.push(std::mem::take(&mut part));
                bytes = 0;
            }
            bytes += letter.content.len();
            part.push(letter);
        }
        parts.push(part);
    }
    parts
}

async fn write(transaction: &DatabaseTransaction, letters: &[&DeadLetter]) -> Result<(), DbErr> {
    let new = |column: Column| Expr::col(("excluded", column));
    let old = |column: Column| Expr::col((Entity, column));
    let renewed = OnConflict::column(Column::Id)
        .update_columns([
            Column::Revision,
            Column::Death,
            Column::Reason,
            Column::Detail,
            Column::Queue,
        ])
        .value(Column::Attempts, old(Column::Attempts).add(new(Column::Attempts)))
        .value(
            Column::LastAt,
            Func::greatest([old(Column::LastAt), new(Column::LastAt)]),
        )
        .value(
            "deaths",
            Expr::cust("(array_prepend(dead_letters.death, dead_letters.deaths))[1:127]"),
        )
        .action_and_where(old(Column::Death).ne(new(Column::Death)))
        .action_and_where(Expr::cust("excluded.death <> all(dead_letters.deaths)"))
        .to_owned();
    let rows = letters
        .iter()
        .map(|letter| ActiveModel::of(letter, Revision::generate()));
    Entity::insert_many(rows)
        .on_conflict(renewed)
        .exec_without_returning(transaction)
        .await?;
    Ok(())
}

/// Writes a filter as a condition on rows.
fn condition(filter: &DeadLetterFilter) -> Condition {
    let DeadLetterFilter {
        ids,
        reasons,
        severities,
        source,
        since,
        until,
        as_of,
    } = filter;
    let mut all = Condition::all();
    if !ids.is_empty() {
        all = all.add(Column::Id.is_in(ids.iter().take(MOST_LISTED).map(|id| id.as_uuid())));
    }
    if !reasons.is_empty() {
        all = all.add(Column::Reason.is_in(reasons.iter().take(MOST_LISTED)));
    }
    if let Some(severities) = severities {
        let numbers = severities.iter().map(|severity| i16::from(severity.number()));
        all = all.add(Column::Severity.is_in(numbers));
    }
    if let Some(branch) = source {
        let root = branch.root.as_str();
        let mut any = Condition::any().add(Column::Source.eq(root));
        if branch.beneath {
            any = any.add(Expr::cust_with_values(
                "starts_with(source, $1)",
                [format!("{root}.")],
            ));
        }
        all = all.add(any);
    }
    if let Some(since) = since {
        all = all.add(Column::LastAt.gte(moment(*since)));
    }
    if let Some(until) = until {
        all = all.add(Column::LastAt.lt(moment(*until)));
    }
    if let Some(as_of) = as_of {
        all = all.add(Column::Revision.lte(as_of.as_uuid()));
    }
    all
}

#[cfg(test)]
mod tests {
    use warren_adapter_conformance::dead_letters::letter;

    use super::*;

    #[test]
    fn no_letter_comes_twice_in_a_statement_and_each_statement_is_bounded() {
        let mut letters: Vec<_> = (0..1_200)
            .map(|n| letter(format!("{}", n % 700).as_bytes(), n))
            .collect();
        letters.push(letter(&vec![0; MOST_BYTES], 1));
        letters.push(letter(&vec![1; MOST_BYTES], 1));
        let distinct = letters.len();
        letters.extend_from_within(..900);
        let parts = parts(&letters);
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), distinct);
        for part in parts {
            assert!(part.is_sorted_by(|a, b| a.facts.id < b.facts.id));
            assert!((1..=MOST_ROWS).contains(&part.len()));
            let bytes: usize = part.iter().map(|letter| letter.content.len()).sum();
            assert!(part.len() == 1 || bytes <= MOST_BYTES);
        }
    }

    #[test]
    fn a_statement_takes_one_death_of_each_letter_and_the_same_death_once() {
        // A packet of equal lines, delivered a hundred times over.
        let deaths: Vec<_> = (0..300).map(|n| letter(b"equal", n)).collect();
        let letters: Vec<_> = (0..100).flat_map(|_| deaths.clone()).collect();
        let parts = parts(&letters);
        assert_eq!(parts.len(), 300);
        assert!(
            parts
                .iter()
                .zip(&deaths)
                .all(|(part, death)| part.as_slice() == [death])
        );
    }
}
