//! Dead letters in memory, that fail as a test tells them.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use warren_domain::Source;
use warren_domain::ports::{
    DeadLetter, DeadLetterCounts, DeadLetterFilter, DeadLetterId, DeadLetterPlace, DeadLetters,
    DeadLettersError, Death, KeptLetter, MOST_LISTED, Revision, SourceBranch,
};

use crate::calls::{Calls, UnderWay};

/// Keeps letters in memory; passes the suite of the port when nothing fails or is held.
#[derive(Debug, Default)]
pub struct ScriptedDeadLetters {
    rows: Mutex<BTreeMap<DeadLetterId, Row>>,
    failures: Mutex<VecDeque<DeadLettersError>>,
    /// Why letters can only be looked at.
    read_only: Mutex<Option<String>>,
    calls: Calls,
}

#[derive(Debug)]
struct Row {
    kept: KeptLetter,
    deaths: HashSet<Death>,
    content: Vec<u8>,
}

impl ScriptedDeadLetters {
    /// Makes a place with nothing in it.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Lets the next calls fail, one with each of these.
    pub fn fail(&self, failures: impl IntoIterator<Item = DeadLettersError>) {
        lock(&self.failures).extend(failures);
    }

    /// Says from now on that letters can only be looked at, and why.
    pub fn set_read_only(&self, reason: &str) {
        *lock(&self.read_only) = Some(reason.to_owned());
    }

    /// Lets calls wait from now on, or lets them go on.
    pub fn hold(&self, held: bool) {
        self.calls.hold(held);
    }

    /// Waits until exactly so many calls are under way.
    pub async fn is_asked_by(&self, calls: usize) {
        self.calls.are(calls).await;
    }

    async fn begin(&self) -> Result<UnderWay<'_>, DeadLettersError> {
        let under_way = self.calls.begin().await;
        match lock(&self.failures).pop_front() {
            None => Ok(under_way),
            Some(failure) => Err(failure),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn of_branch(source: &Source, branch: &SourceBranch) -> bool {
    match source.as_str().strip_prefix(branch.root.as_str()) {
        Some("") => true,
        Some(rest) => branch.beneath && rest.starts_with('.'),
        None => false,
    }
}

fn meant(filter: &DeadLetterFilter, kept: &KeptLetter) -> bool {
    let facts = &kept.facts;
    (filter.ids.is_empty() || filter.ids.contains(&facts.id))
        && (filter.reasons.is_empty()
            || filter
                .reasons
                .iter()
                .any(|reason| reason == facts.reason.as_str()))
        && filter
            .severities
            .is_none_or(|set| facts.severity.is_some_and(|severity| set.contains(severity)))
        && filter.source.as_ref().is_none_or(|branch| {
            let source = facts.source.as_ref();
            source.is_some_and(|source| of_branch(source, branch))
        })
        && filter.since.is_none_or(|since| facts.last_at >= since)
        && filter.until.is_none_or(|until| facts.last_at < until)
        && filter.as_of.is_none_or(|as_of| kept.revision <= as_of)
}

#[async_trait]
impl DeadLetters for ScriptedDeadLetters {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPlace>,
        limit: usize,
    ) -> Result<Vec<KeptLetter>, DeadLettersError> {
        let _under_way = self.begin().await?;
        let order = |place: DeadLetterPlace| (place.last_at, place.id);
        let mut found: Vec<_> = lock(&self.rows)
            .values()
            .map(|row| row.kept.clone())
            .filter(|kept| meant(filter, kept))
            .filter(|kept| after.is_none_or(|after| order(kept.place()) < order(after)))
            .collect();
        found.sort_by_key(|kept| std::cmp::Reverse(order(kept.place())));
        found.truncate(limit.min(MOST_LISTED));
        Ok(found)
    }

    async fn check_writable(&self) -> Result<(), DeadLettersError> {
        let read_only = lock(&self.read_only).clone();
        read_only.map_or(Ok(()), |reason| Err(DeadLettersError::ReadOnly { reason }))
    }

    async fn read(&self, ids: &[DeadLetterId]) -> Result<Vec<(KeptLetter, Vec<u8>)>, DeadLettersError> {
        let _under_way = self.begin().await?;
        let rows = lock(&self.rows);
        let found = ids.iter().take(MOST_LISTED).filter_map(|id| rows.get(id));
        Ok(found.map(|row| (row.kept.clone(), row.content.clone())).collect())
    }

    async fn show(
        &self,
        id: DeadLetterId,
        most: usize,
    ) -> Result<Option<(KeptLetter, Vec<u8>)>, DeadLettersError> {
        let _under_way = self.begin().await?;
        let rows = lock(&self.rows);
        Ok(rows.get(&id).map(|row| {
            let shown = &row.content[..row.content.len().min(most)];
            (row.kept.clone(), shown.to_vec())
        }))
    }

    async fn count(&self, filter: &DeadLetterFilter) -> Result<DeadLetterCounts, DeadLettersError> {
        let _under_way = self.begin().await?;
        let mut counts = DeadLetterCounts::default();
        for row in lock(&self.rows).values().filter(|row| meant(filter, &row.kept)) {
            let reason = row.kept.facts.reason.as_str().to_owned();
            *counts.by_reason.entry(reason).or_default() += 1;
            counts.newest = counts.newest.max(Some(row.kept.revision));
        }
        Ok(counts)
    }

    async fn keep(&self, letters: &[DeadLetter]) -> Result<(), DeadLettersError> {
        let _under_way = self.begin().await?;
        let mut rows = lock(&self.rows);
        for letter in letters {
            let revision = Revision::generate();
            let Some(row) = rows.get_mut(&letter.facts.id) else {
                let kept = KeptLetter {
                    facts: letter.facts.clone(),
                    revision,
                    bytes: letter.content.len() as u64,
                };
                let row = Row {
                    kept,
                    deaths: HashSet::from([letter.death]),
                    content: letter.content.clone(),
                };
                rows.insert(letter.facts.id, row);
                continue;
            };
            if !row.deaths.insert(letter.death) {
                continue;
            }
            let facts = &mut row.kept.facts;
            facts.reason = letter.facts.reason.clone();
            facts.detail = letter.facts.detail.clone();
            facts.queue = letter.facts.queue.clone();
            facts.attempts += letter.facts.attempts;
            facts.last_at = facts.last_at.max(letter.facts.last_at);
            row.kept.revision = revision;
        }
        Ok(())
    }

    async fn remove(&self, letters: &[(DeadLetterId, Revision)]) -> Result<u64, DeadLettersError> {
        let _under_way = self.begin().await?;
        let mut rows = lock(&self.rows);
        let before = rows.len();
        for (id, revision) in letters {
            if rows.get(id).is_some_and(|row| row.kept.revision == *revision) {
                rows.remove(id);
            }
        }
        Ok((before - rows.len()) as u64)
    }
}
