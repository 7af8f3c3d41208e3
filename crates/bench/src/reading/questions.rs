//! The questions that people and the console ask.

use std::num::NonZeroU32;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use warren_adapter_postgres::PostgresReader;
use warren_domain::ports::{Counts, MessageReader as _, Order, Search, TimeRange};
use warren_domain::{Selection, SeveritySet, Timestamp};

use super::Table;
use super::author::{ABSENT, COMMON, RARE, SOURCES, source};
use crate::asked::{Answer, Answered, PAGE};

/// Asks each question as often as wanted.
///
/// # Errors
/// PostgreSQL failed, or something was not found.
pub(crate) async fn ask(table: &Table, asked: usize) -> Result<Vec<Answered>> {
    let mut asking = Asking {
        table,
        rng: Rng::with_seed(304),
        asked,
    };
    let word = |text: &str, found: usize| (text.to_owned(), found);
    let filled = &table.filled;
    Ok(vec![
        asking.newest_by_severity().await?,
        asking.source_in_range(false).await?,
        asking.source_in_range(true).await?,
        asking.counts_of_a_day().await?,
        asking.sources_of_a_day().await?,
        asking
            .word("a common word in the last day", &word(COMMON, PAGE))
            .await?,
        asking
            .word("a rare word in the last day", &word(RARE, filled.rare.min(PAGE)))
            .await?,
        asking
            .word("one request in the last day", &word(&filled.request, 1))
            .await?,
        asking
            .word("an absent word in the last day", &word(ABSENT, 0))
            .await?,
        asking
            .plain_word("a common word, without filters", &word(COMMON, PAGE))
            .await?,
        asking
            .plain_word("a rare word, without filters", &word(RARE, filled.rare.min(PAGE)))
            .await?,
        asking
            .plain_word("an absent word, without filters", &word(ABSENT, 0))
            .await?,
    ])
}

struct Asking<'t> {
    table: &'t Table,
    rng: Rng,
    asked: usize,
}

impl Asking<'_> {
    async fn time(
        &mut self,
        question: &'static str,
        goal: Option<f64>,
        mut ask: impl AsyncFnMut(&Table, &mut Rng) -> Result<Answer>,
    ) -> Result<Answered> {
        let (table, rng) = (self.table, &mut self.rng);
        Answered::time(question, goal, self.asked, async |_| ask(table, rng).await).await
    }

    async fn newest_by_severity(&mut self) -> Result<Answered> {
        let mut severities = ["debug", "info", "warning", "error", "critical", "error+"]
            .iter()
            .cycle();
        self.time("the newest 100 of a severity", Some(20.0), async |table, _| {
            let severities = severities.next().context("there are severities")?;
            let search = Search {
                selection: Selection::of(severities.parse()?),
                range: TimeRange::ALL,
                ..everything(table)
            };
            let (answer, found) = search_for(&table.reader, search).await?;
            ensure!(found == PAGE, "{found} found");
            Ok(answer)
        })
        .await
    }

    async fn source_in_range(&mut self, next_page: bool) -> Result<Answered> {
        let question = if next_page {
            "the next page of it"
        } else {
            "a source within 6 hours"
        };
        self.time(question, Some(20.0), async |table, rng| {
            let search = Search {
                selection: Selection {
                    sources: vec![source(rng.usize(..SOURCES)).parse()?],
                    ..Selection::of(SeveritySet::ALL)
                },
                range: part(table.filled.range, 6 * 60, rng)?,
                ..everything(table)
            };
            if !next_page {
                let (answer, _) = search_for(&table.reader, search).await?;
                return Ok(answer);
            }
            let first = table.reader.find(&search, PAGE).await?;
            let after = Search {
                from: first.next,
                ..search
            };
            let (answer, _) = search_for(&table.reader, after).await?;
            Ok(answer)
        })
        .await
    }

    async fn counts_of_a_day(&mut self) -> Result<Answered> {
        self.time(
            "the counts of a day by 15 minutes",
            Some(20.0),
            async |table, rng| {
                let wanted = Counts {
                    selection: Selection::of(SeveritySet::ALL),
                    range: part(table.filled.range, 24 * 60, rng)?,
                    minutes: NonZeroU32::new(15).context("not zero")?,
                };
                let begun = Instant::now();
                let buckets = table.reader.counts(&wanted).await?;
                let took = begun.elapsed();
                ensure!(buckets.len() >= 96, "{} buckets", buckets.len());
                Ok(Answer { took, calls: 1 })
            },
        )
        .await
    }

    async fn sources_of_a_day(&mut self) -> Result<Answered> {
        self.time("the sources of a day", None, async |table, rng| {
            let range = part(table.filled.range, 24 * 60, rng)?;
            let begun = Instant::now();
            let listed = table.reader.sources(range, SeveritySet::ALL).await?;
            let took = begun.elapsed();
            ensure!(
                listed.sources.len() == SOURCES,
                "{} sources",
                listed.sources.len()
            );
            Ok(Answer { took, calls: 1 })
        })
        .await
    }

    /// Looks for a text in the last day, until a page is full or everything was looked at.
    async fn word(&mut self, question: &'static str, word: &(String, usize)) -> Result<Answered> {
        self.time(question, Some(200.0), async |table, _| {
            look_for(table, &table.reader, word).await
        })
        .await
    }

    /// Does the same as it would be done without the filters, a few times.
    async fn plain_word(&mut self, question: &'static str, word: &(String, usize)) -> Result<Answered> {
        let asked = self.asked;
        self.asked = (asked / 10).max(1);
        let answered = self.time(question, None, async |table, _| {
            look_for(table, &table.plain_reader, word).await
        });
        let answered = answered.await?;
        self.asked = asked;
        Ok(answered)
    }
}

/// Looks for a text in the last day.
///
/// # Errors
/// PostgreSQL failed, or not as much was found as there is.
pub(super) async fn look_for(
    table: &Table,
    reader: &PostgresReader,
    (text, expected): &(String, usize),
) -> Result<Answer> {
    let search = Search {
        query: text.parse()?,
        range: table.filled.last_day,
        ..everything(table)
    };
    let (answer, found) = search_for(reader, search).await?;
    ensure!(found == *expected, "{found} found of {expected}");
    Ok(answer)
}

fn everything(table: &Table) -> Search {
    Search {
        selection: Selection::of(SeveritySet::ALL),
        query: warren_domain::Query::default(),
        range: table.filled.range,
        order: Order::NewestFirst,
        from: None,
    }
}

/// Searches until a page is full or there is nothing more; returns how many messages were found, too.
async fn search_for(reader: &PostgresReader, mut search: Search) -> Result<(Answer, usize)> {
    let begun = Instant::now();
    let (mut found, mut calls) = (0, 0);
    loop {
        let page = reader.find(&search, PAGE - found).await?;
        calls += 1;
        found += page.messages.len();
        search.from = page.next;
        if page.next.is_none() || found >= PAGE {
            let took = begun.elapsed();
            return Ok((Answer { took, calls }, found));
        }
    }
}

/// Picks some minutes of a range, or all of it if it is shorter.
pub(crate) fn part(range: TimeRange, minutes: i64, rng: &mut Rng) -> Result<TimeRange> {
    let (from, until) = (range.from().unix_micros(), range.until().unix_micros());
    let width = (minutes * 60_000_000).min(until - from);
    let from = from + rng.i64(0..=until - from - width);
    let time = |micros| Timestamp::from_unix_micros(micros).context("no time that a message can have");
    Ok(TimeRange::new(time(from)?, time(from + width)?)?)
}
