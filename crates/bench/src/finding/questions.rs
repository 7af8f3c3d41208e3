//! The questions that a person asks of a program that has many messages.

use std::time::Instant;

use anyhow::{Result, ensure};
use fastrand::Rng;
use serde_json::Value;
use warren_e2e::http::Client;
use warren_e2e::process::Service;
use warren_e2e::request::Request;

use super::{DAY_MICROS, Filled};
use crate::asked::{Answer, Answered, PAGE};
use crate::reading::author::{ABSENT, COMMON, RARE, SOURCES, source};

/// What half of the answers may take whose messages an index or the counts lead to, milliseconds…
const QUICK: f64 = 50.0;
/// …and of those that all messages may have to be looked at for: seconds, and not many.
const SECONDS: f64 = 3_000.0;

/// Asks each question as often as wanted.
///
/// # Errors
/// The program failed, or something was not found.
pub(super) async fn ask(warren: &Service, filled: &Filled, asked: usize) -> Result<Vec<Answered>> {
    let mut asking = Asking {
        client: Client::new(warren.address()),
        filled,
        rng: Rng::with_seed(305),
        asked,
    };
    let everything = async |asking: &mut Asking<'_>, text: &str, found: usize| {
        asking.search(&format!("q={text}"), Some(found)).await
    };
    let severities = ["debug", "info", "warning", "error", "critical", "error%2B"];
    let mut answered = Vec::new();
    let mut note = |question: Result<Answered>| question.map(|question| answered.push(question));
    note(
        asking
            .time("the newest 100 of a severity", QUICK, async |asking, number| {
                let severity = severities[number % severities.len()];
                asking.search(&format!("severity={severity}"), Some(PAGE)).await
            })
            .await,
    )?;
    note(
        asking
            .time("a source within 6 hours", QUICK, async |asking, _| {
                let query = asking.source_in_range()?;
                asking.search(&query, None).await
            })
            .await,
    )?;
    note(asking.time("the next page of it", QUICK, Asking::next_page).await)?;
    note(
        asking
            .time("the counts of a day by 15 minutes", QUICK, Asking::counts)
            .await,
    )?;
    note(
        asking
            .time("a common word", QUICK, async |asking, _| {
                everything(asking, COMMON, PAGE).await
            })
            .await,
    )?;
    note(
        asking
            .time("a rare word among all", SECONDS, async |asking, _| {
                let rare = asking.filled.rare.min(PAGE);
                everything(asking, RARE, rare).await
            })
            .await,
    )?;
    note(
        asking
            .time(
                "one request among all, by its body",
                SECONDS,
                async |asking, number| {
                    let request = asking.filled.known(number)?.request.clone();
                    everything(asking, &request, 1).await
                },
            )
            .await,
    )?;
    note(
        asking
            .time(
                "one request among all, by its attribute",
                SECONDS,
                async |asking, number| {
                    let request = asking.filled.known(number)?.request.clone();
                    everything(asking, &format!("request={request}"), 1).await
                },
            )
            .await,
    )?;
    note(
        asking
            .time("an absent word among all", SECONDS, async |asking, _| {
                everything(asking, ABSENT, 0).await
            })
            .await,
    )?;
    note(
        asking
            .time(
                "an absent word of two bytes among all",
                SECONDS,
                async |asking, _| everything(asking, "%7B%7D", 0).await,
            )
            .await,
    )?;
    note(
        asking
            .time("one message by its id, with neighbours", QUICK, Asking::message)
            .await,
    )?;
    Ok(answered)
}

struct Asking<'f> {
    client: Client,
    filled: &'f Filled,
    rng: Rng,
    asked: usize,
}

impl Asking<'_> {
    async fn time(
        &mut self,
        question: &'static str,
        goal: f64,
        mut ask: impl AsyncFnMut(&mut Self, usize) -> Result<Answer>,
    ) -> Result<Answered> {
        let asked = self.asked;
        Answered::time(question, Some(goal), asked, async |number| {
            ask(self, number).await
        })
        .await
    }

    async fn get(&mut self, target: &str) -> Result<Value> {
        let answer = self.client.send(&Request::get(target)).await?;
        ensure!(
            answer.status == 200,
            "{target}: {} {}",
            answer.status,
            answer.text_start()
        );
        answer.json()
    }

    /// Turns pages until a hundred are found, or everything was looked at.
    async fn search(&mut self, query: &str, expected: Option<usize>) -> Result<Answer> {
        let begun = Instant::now();
        let (mut found, mut calls, mut after) = (0, 0, String::new());
        loop {
            let target = format!("/v1/messages?limit={}&{query}{after}", PAGE - found);
            let page = self.get(&target).await?;
            calls += 1;
            found += page["messages"].as_array().map_or(0, Vec::len);
            match page["next"].as_str() {
                Some(next) if found < PAGE => after = format!("&after={next}"),
                _ => break,
            }
        }
        let took = begun.elapsed();
        if let Some(expected) = expected {
            ensure!(found == expected, "{query}: {found} found, not {expected}");
        }
        Ok(Answer { took, calls })
    }

    fn source_in_range(&mut self) -> Result<String> {
        let part = self.filled.part(DAY_MICROS / 4, &mut self.rng)?;
        Ok(format!("source={}&{part}", source(self.rng.usize(..SOURCES))))
    }

    async fn next_page(&mut self, _: usize) -> Result<Answer> {
        let query = self.source_in_range()?;
        let first = self.get(&format!("/v1/messages?limit={PAGE}&{query}")).await?;
        match first["next"].as_str() {
            Some(next) => self.search(&format!("{query}&after={next}"), None).await,
            None => self.search(&query, None).await,
        }
    }

    async fn counts(&mut self, _: usize) -> Result<Answer> {
        let part = self.filled.part(DAY_MICROS, &mut self.rng)?;
        let begun = Instant::now();
        let counts = self.get(&format!("/v1/counts?bucket=15m&{part}")).await?;
        let took = begun.elapsed();
        ensure!(
            counts["buckets"]
                .as_array()
                .is_some_and(|buckets| buckets.len() >= 96),
            "too few buckets"
        );
        Ok(Answer { took, calls: 1 })
    }

    async fn message(&mut self, number: usize) -> Result<Answer> {
        let id = self.filled.known(number)?.id.clone();
        let begun = Instant::now();
        let shown = self.get(&format!("/v1/messages/{id}?neighbours=10")).await?;
        let took = begun.elapsed();
        for side in ["newer", "older"] {
            ensure!(
                shown[side].as_array().is_some_and(|side| side.len() == 10),
                "{side} is missing"
            );
        }
        Ok(Answer { took, calls: 1 })
    }
}
