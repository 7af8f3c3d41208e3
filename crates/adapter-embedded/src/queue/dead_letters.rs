//! The port of the dead letters on the queue's file: reading beside the writer, changing through it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::sea_query::{Expr, Order};
use sea_orm::sqlx;
use sea_orm::{
    ColumnTrait, Condition, DbErr, EntityTrait, ExprTrait, FromQueryResult, QueryFilter, QueryOrder,
    QuerySelect,
};
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;
use warren_domain::ports::{
    DeadLetter, DeadLetterCounts, DeadLetterFilter, DeadLetterId, DeadLetterPlace, DeadLetters,
    DeadLettersError, KeptLetter, MOST_LISTED, Revision,
};

use super::dead_letter::keep;
use super::script::Script;
use super::{Command, Queue};
use crate::entity::dead_letter::{Column, Entity, LISTED, Listed, Shown};
use crate::error::{from_orm, store_error};

/// How long reading may take; only a disk that hangs takes longer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What the writer is asked to do with letters.
#[derive(Debug)]
pub(super) enum LetterWork {
    Keep(Vec<DeadLetter>),
    Remove(Vec<(DeadLetterId, Revision)>),
}

impl LetterWork {
    /// Writes down one transaction; each letter that it removes returns a row.
    pub(super) fn script(&self) -> Result<Script, sqlx::Error> {
        let mut script = Script::begin();
        match self {
            Self::Keep(letters) => letters.iter().try_for_each(|letter| keep(&mut script, letter))?,
            Self::Remove(letters) => {
                let rows = vec!["(?,?)"; letters.len()].join(",");
                script.statement(&format!(
                    "delete from dead_letters where (id, revision) in (values {rows}) returning 1"
                ));
                for (id, revision) in letters {
                    script.bind(id.as_uuid())?.bind(revision.as_uuid())?;
                }
            }
        }
        Ok(script)
    }
}

/// The dead letters of the queue's file.
#[derive(Debug)]
pub(crate) struct QueueLetters(pub(crate) Arc<Queue>);

impl QueueLetters {
    async fn read<T>(&self, reading: impl Future<Output = Result<T, DbErr>>) -> Result<T, DeadLettersError> {
        let path = self.0.database.path();
        match timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(match Arc::try_unwrap(from_orm(error)) {
                Ok(error) => store_error(error, path).into(),
                Err(shared) => unavailable(format!("{} cannot be read: {shared}", path.display())),
            }),
            Err(_) => Err(unavailable(format!(
                "{} was not read within {READ_TIMEOUT:?}; check the disk",
                path.display()
            ))),
        }
    }

    async fn change(&self, work: LetterWork) -> Result<u64, DeadLettersError> {
        let (reply, outcome) = oneshot::channel();
        let patience = self.0.limits.publish_timeout;
        let changing = async {
            let gone = || unavailable("the queue was closed".to_owned());
            let command = Command::Letters { work, reply };
            self.0.commands.send(command).await.map_err(|_| gone())?;
            outcome.await.map_err(|_| gone())
        };
        match timeout(patience, changing).await {
            Ok(outcome) => outcome?.map_err(|error| store_error(error, self.0.database.path()).into()),
            Err(_) => Err(unavailable(format!(
                "{} took no change within {patience:?}; check the disk",
                self.0.database.path().display()
            ))),
        }
    }
}

fn unavailable(reason: String) -> DeadLettersError {
    DeadLettersError::Unavailable { reason, cause: None }
}

#[async_trait]
impl DeadLetters for QueueLetters {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPlace>,
        limit: usize,
    ) -> Result<Vec<KeptLetter>, DeadLettersError> {
        let mut listing = Entity::find()
            .select_only()
            .columns(LISTED)
            .expr_as(Expr::cust("length(content)"), "bytes")
            .filter(condition(filter))
            .order_by(Column::LastAt, Order::Desc)
            .order_by(Column::Id, Order::Desc)
            .limit(limit.min(MOST_LISTED) as u64);
        if let Some(DeadLetterPlace { last_at, id }) = after {
            let here = Expr::tuple([Column::LastAt.into_expr(), Column::Id.into_expr()]);
            let there = Expr::tuple([Expr::value(last_at.unix_micros()), Expr::value(id.as_uuid())]);
            listing = listing.filter(here.lt(there));
        }
        let listing = listing.into_model::<Listed>();
        let rows = self.read(listing.all(self.0.database.readers())).await?;
        Ok(rows.into_iter().map(KeptLetter::from).collect())
    }

    async fn read(&self, ids: &[DeadLetterId]) -> Result<Vec<(KeptLetter, Vec<u8>)>, DeadLettersError> {
        let ids = ids.iter().take(MOST_LISTED).map(|id| id.as_uuid());
        let reading = Entity::find().filter(Column::Id.is_in(ids));
        let rows = self.read(reading.all(self.0.database.readers())).await?;
        Ok(rows.into_iter().map(|row| row.into_letter()).collect())
    }

    async fn show(
        &self,
        id: DeadLetterId,
        most: usize,
    ) -> Result<Option<(KeptLetter, Vec<u8>)>, DeadLettersError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let reading = Entity::find()
            .select_only()
            .columns(LISTED)
            .expr_as(Expr::cust("length(content)"), "bytes")
            .expr_as(Expr::cust_with_values("substr(content, 1, ?)", [most]), "content")
            .filter(Column::Id.eq(id.as_uuid()))
            .into_model::<Shown>();
        let row = self.read(reading.one(self.0.database.readers())).await?;
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
            .expr_as(Expr::cust("max(revision)"), "newest")
            .filter(condition(filter))
            .group_by(Column::Reason)
            .into_model::<Sum>();
        let sums = self.read(counting.all(self.0.database.readers())).await?;
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
        self.change(LetterWork::Keep(letters.to_vec())).await.map(drop)
    }

    async fn remove(&self, letters: &[(DeadLetterId, Revision)]) -> Result<u64, DeadLettersError> {
        if letters.is_empty() {
            return Ok(0);
        }
        let seen = letters.iter().take(MOST_LISTED).copied().collect();
        self.change(LetterWork::Remove(seen)).await
    }
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
            let beneath = format!("{root}.");
            any = any.add(Expr::cust_with_values(
                "substr(source, 1, length(?)) = ?",
                [beneath.clone(), beneath],
            ));
        }
        all = all.add(any);
    }
    if let Some(since) = since {
        all = all.add(Column::LastAt.gte(since.unix_micros()));
    }
    if let Some(until) = until {
        all = all.add(Column::LastAt.lt(until.unix_micros()));
    }
    if let Some(as_of) = as_of {
        all = all.add(Column::Revision.lte(as_of.as_uuid()));
    }
    all
}
