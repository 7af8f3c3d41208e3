//! What came of it, beside the goals.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use super::sizes::Size;
use super::storing::Pairs;
use super::watched::{CONSOLES, STEADY, TAILS, Watched};
use super::{Reading, SMALLER, author};
use crate::asked::{Answered, write_answers};
use crate::report::{Goal, thousands, write_goals};
use crate::statistics::median;

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    description: String,
    messages: u64,
    /// Messages a second, while the table was filled.
    pub(crate) filled: f64,
    /// How long the maintenance took that follows, and how many rounds.
    pub(crate) maintained: Duration,
    pub(crate) rounds: u32,
    pub(crate) sizes: Vec<Size>,
    pub(crate) questions: Vec<Answered>,
    /// Into the smaller table, into the larger one.
    pub(crate) by_size: Pairs,
    pub(crate) beside_filters: Pairs,
    /// At a steady rate, and as fast as it goes.
    pub(crate) beside_consoles: [Watched; 2],
    pub(crate) beside_tails: [Watched; 2],
}

impl Report {
    /// # Errors
    /// PostgreSQL does not say what it is.
    pub(crate) async fn new(reading: &Reading, url: &str) -> Result<Self> {
        Ok(Self {
            description: describe(url, reading.messages, reading.days).await?,
            messages: reading.messages,
            filled: 0.0,
            maintained: Duration::ZERO,
            rounds: 0,
            sizes: Vec::new(),
            questions: Vec::new(),
            by_size: Pairs::default(),
            beside_filters: Pairs::default(),
            beside_consoles: Default::default(),
            beside_tails: Default::default(),
        })
    }

    /// Lists who looked on, and at which pace.
    fn watched(&self) -> impl Iterator<Item = (String, String, &Watched)> {
        let who = [
            (format!("{CONSOLES} consoles"), &self.beside_consoles),
            (format!("{TAILS} live tails"), &self.beside_tails),
        ];
        who.into_iter().flat_map(|(who, [steady, full])| {
            let steadily = format!("{} a second", thousands(STEADY));
            [
                (who.clone(), steadily, steady),
                (who, "at full speed".to_owned(), full),
            ]
        })
    }

    fn goals(&self) -> Vec<Goal> {
        let asked = self.questions.iter().filter_map(Answered::goal);
        let size = format!(
            "storing at {} : at {}",
            thousands(self.messages as f64),
            thousands((self.messages / SMALLER) as f64)
        );
        let size = [(size, &self.by_size, 0.95)];
        let watched = self.watched().map(|(who, pace, watched)| {
            let what = format!("storing beside {who} : alone, {pace}");
            (what, &watched.stored, 0.9)
        });
        let stored = size
            .into_iter()
            .chain(watched)
            .filter_map(|(what, pairs, least)| {
                let [ratio, ..] = pairs.ratios()?;
                Some(Goal {
                    what,
                    figure: format!("{ratio:.2} ×"),
                    wanted: format!("≥ {least} ×"),
                    met: ratio >= least,
                })
            });
        asked.chain(stored).collect()
    }
}

/// Says where something is measured, and with how much.
///
/// # Errors
/// PostgreSQL does not say what it is.
pub(super) async fn describe(url: &str, messages: u64, days: u32) -> Result<String> {
    let client = warren_e2e::postgres::connect(url).await?;
    let row = client
        .query_one(
            "select current_setting('server_version'), current_setting('shared_buffers')",
            &[],
        )
        .await?;
    let (version, buffers): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) {
        "DEBUG BUILD"
    } else {
        "release build"
    };
    Ok(format!(
        "{cores} cores · PostgreSQL {version} with shared_buffers of {buffers} · {build} · {} messages over {days} days, {} sources",
        thousands(messages as f64),
        author::SOURCES
    ))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.description)?;
        if self.rounds > 0 {
            writeln!(
                f,
                "filled at {} messages a second; what the maintenance had to do with it, filters above all, took {:.1} s, {} rounds, {:.1} s a million",
                thousands(self.filled),
                self.maintained.as_secs_f64(),
                self.rounds,
                self.maintained.as_secs_f64() * 1e6 / self.messages as f64
            )?;
        }
        if !self.questions.is_empty() {
            writeln!(f, "\n{:<42} {:>9} {:>14}", "Sizes", "MiB", "bytes/message")?;
            for Size {
                part,
                bytes,
                per_message,
            } in &self.sizes
            {
                writeln!(
                    f,
                    "{part:<42} {:>9.0} {per_message:>14.1}",
                    bytes / f64::from(1 << 20)
                )?;
            }
            write_answers(f, &self.questions, "calls")?;
        }
        writeln!(
            f,
            "\n{:<48} {:>9} {:>9} {:>7}",
            "Stored a second, in turns", "first", "second", "pairs"
        )?;
        let watched = self.watched().map(|(who, pace, watched)| {
            let what = format!("alone and beside {who}, {pace}");
            (what, &watched.stored)
        });
        let others = [
            ("into the smaller and the larger table", &self.by_size),
            ("alone and while filters are made", &self.beside_filters),
        ];
        let others = others.map(|(what, pairs)| (what.to_owned(), pairs));
        for (what, pairs) in others.into_iter().chain(watched) {
            if let (Some((first, second)), Some([_, least, greatest])) = (pairs.medians(), pairs.ratios()) {
                writeln!(
                    f,
                    "{what:<48} {:>9} {:>9} {:>7}   ratios {least:.2} to {greatest:.2}",
                    thousands(first),
                    thousands(second),
                    pairs.len()
                )?;
            }
        }
        for (who, pace, watched) in self.watched() {
            if watched.processor.is_empty() {
                continue;
            }
            let what = "Processor seconds a million messages";
            writeln!(f, "\n{what:<48} {:>9}    beside {who}, {pace}", "alone")?;
            for (program, [alone, beside]) in &watched.processor {
                if let (Some(alone), Some(beside)) = (median(alone), median(beside)) {
                    writeln!(f, "{program:<48} {alone:>9.2} {beside:>9.2}")?;
                }
            }
        }
        write_goals(f, self.goals())
    }
}
