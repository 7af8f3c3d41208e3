//! I9: whether the programs' own books agree with the clients' and the table.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use warren_e2e::environment;
use warren_e2e::metrics::Metrics;

use crate::bed::{Bed, Program};
use crate::ledger::{Ledger, Tally};
use crate::plan::INSTANCES;

/// How long the time without a fault is in which the books are closed.
pub const STRETCH: Duration = Duration::from_secs(8);

/// How long `warren audit` waits until nothing is in flight; and how long it may take beside that.
const UNTIL_EMPTY: Duration = Duration::from_secs(60);

/// Books that do not change for so long are at rest, and how often that is looked for.
const REST: Duration = Duration::from_millis(300);
const REST_TRIES: u32 = 30;

/// What everybody has counted so far, or in a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Books {
    /// By intake: what it counted as accepted.
    accepted: [u64; INSTANCES],
    /// By worker: what it counted as stored, and as stored already.
    stored: [(u64, u64); INSTANCES],
    /// What the clients saw.
    tally: Tally,
    /// Rows of the table.
    rows: u64,
}

impl Books {
    /// Reads everybody's.
    ///
    /// # Errors
    /// A program or the database does not answer.
    pub async fn read(bed: &Bed, ledger: &Ledger) -> Result<Self> {
        let mut books = Self {
            tally: ledger.tally(),
            rows: bed.database.count().await?,
            ..Self::default()
        };
        for (program, accepted) in bed.ingests().iter().zip(&mut books.accepted) {
            let metrics = Metrics::scrape(program.service.lock().await.address()).await?;
            *accepted = metrics.sum("warren_intake_accepted_messages_total");
        }
        for (program, stored) in bed.workers().iter().zip(&mut books.stored) {
            let metrics = Metrics::scrape(program.service.lock().await.address()).await?;
            *stored = (
                metrics.sum("warren_store_inserted_messages_total"),
                metrics.sum("warren_store_duplicate_messages_total"),
            );
        }
        Ok(books)
    }

    /// Reads everybody's once nobody counts on: what is under way when the queue is empty is counted a moment later.
    ///
    /// # Errors
    /// As [`Books::read`], and the books do not come to rest.
    pub async fn at_rest(bed: &Bed, ledger: &Ledger) -> Result<Self> {
        let mut books = Self::read(bed, ledger).await?;
        for _ in 0..REST_TRIES {
            sleep(REST).await;
            let again = Self::read(bed, ledger).await?;
            if again == books {
                return Ok(again);
            }
            books = again;
        }
        bail!("I9: somebody still counts, although nothing waits and nobody sends")
    }

    /// Returns what was counted since other books were read.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut books = self.clone();
        for (now, then) in books.accepted.iter_mut().zip(before.accepted) {
            *now = now.saturating_sub(then);
        }
        for (now, then) in books.stored.iter_mut().zip(before.stored) {
            *now = (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1));
        }
        for (now, then) in books.tally.accepted_by.iter_mut().zip(before.tally.accepted_by) {
            *now -= then;
        }
        for (status, then) in &before.tally.answers {
            if let Some(now) = books.tally.answers.get_mut(status) {
                *now -= then;
            }
        }
        books.tally.broken -= before.tally.broken;
        books.rows = books.rows.saturating_sub(before.rows);
        books
    }

    /// Requires that all agree to the message, after a time without a fault; says what was compared.
    ///
    /// # Errors
    /// They do not, or nobody counted anything.
    pub fn agree(&self) -> Result<String> {
        let tally = &self.tally;
        let failed: u64 = tally.answers.range(500..).map(|(_, count)| count).sum();
        ensure!(
            failed + tally.broken == 0,
            "I9: {failed} requests failed and {} broke off while nothing was wrong, so there is nothing to compare with",
            tally.broken
        );
        for (instance, (own, seen)) in self.accepted.iter().zip(tally.accepted_by).enumerate() {
            ensure!(
                *own == seen && seen > 0,
                "I9: ingest-{instance} counted {own} accepted messages, and clients saw {seen}"
            );
        }
        for (instance, (inserted, duplicate)) in self.stored.iter().enumerate() {
            ensure!(
                inserted + duplicate > 0,
                "I9: worker-{instance} counted no message at all"
            );
        }
        let accepted: u64 = self.accepted.iter().sum();
        let (inserted, duplicate) = self
            .stored
            .iter()
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        ensure!(
            inserted == self.rows,
            "I9: the workers counted {inserted} stored messages, and {} rows came",
            self.rows
        );
        ensure!(
            inserted + duplicate == accepted,
            "I9: {accepted} messages were accepted, and the workers counted {inserted} as stored and {duplicate} as duplicates"
        );
        Ok(format!(
            "{} intakes accepted {accepted} as clients saw, {} workers stored {inserted} as the table shows, {duplicate} duplicates",
            self.accepted.len(),
            self.stored.len()
        ))
    }

    /// Names where books of the whole run contradict the clients' and the table, for those that ran throughout.
    pub fn disagree(&self, bed: &Bed) -> Vec<String> {
        let mut found = Vec::new();
        for (instance, program) in bed.ingests().iter().enumerate() {
            let (own, seen) = (self.accepted[instance], self.tally.accepted_by[instance]);
            // It may have accepted what no client heard of, never the other way round.
            if program.is_unbroken() && own < seen {
                found.push(format!(
                    "I9: {} counted {own} accepted messages, and clients saw {seen}",
                    program.name
                ));
            }
        }
        let inserted: u64 = self.stored.iter().map(|(inserted, _)| inserted).sum();
        let duplicate: u64 = self.stored.iter().map(|(_, duplicate)| duplicate).sum();
        // A commit whose answer was lost is counted as a duplicate when it is repeated.
        let possible = inserted <= self.rows && self.rows <= inserted + duplicate;
        if bed.workers().iter().all(Program::is_unbroken) && !possible {
            found.push(format!(
                "I9: the workers counted {inserted} inserted and {duplicate} duplicate messages, and {} rows are there",
                self.rows
            ));
        }
        found
    }
}

/// A `warren audit` that watches.
#[derive(Debug)]
pub struct Audit {
    child: Child,
}

impl Audit {
    /// Starts one, and returns when it has read the counters for the first time.
    ///
    /// # Errors
    /// It cannot be started, or ends before that.
    pub async fn start(bed: &Bed, folder: &Path) -> Result<Self> {
        let mut command = Command::new(environment::find(folder, "warren")?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WARREN_") {
                command.env_remove(name);
            }
        }
        command.arg("audit");
        for (option, programs) in [("--ingest", bed.ingests()), ("--worker", bed.workers())] {
            for program in programs {
                let address = program.service.lock().await.address();
                command.arg(option).arg(format!("http://{address}"));
            }
        }
        command
            .args(["--for", &format!("{}s", STRETCH.as_secs())])
            .args(["--until-empty", &format!("{}s", UNTIL_EMPTY.as_secs())])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("cannot start `warren audit`")?;
        let mut said = String::new();
        let mut words = BufReader::new(child.stderr.take().context("no stderr")?);
        let begun = timeout(UNTIL_EMPTY, async {
            while !said.contains("watching for") {
                if words.read_line(&mut said).await? == 0 {
                    bail!("`warren audit` ended: {said}");
                }
            }
            anyhow::Ok(())
        });
        begun.await.context("`warren audit` does not begin")??;
        // What it says from here on goes where it came from.
        tokio::spawn(async move {
            let mut rest = String::new();
            if words.read_to_string(&mut rest).await.is_ok() && !rest.is_empty() {
                eprintln!("warren audit: {rest}");
            }
        });
        Ok(Self { child })
    }

    /// Waits until it has closed the books; they must hold.
    ///
    /// # Errors
    /// They do not hold, or cannot be judged; the message has its table.
    pub async fn verdict(mut self) -> Result<String> {
        let mut table = String::new();
        let mut output = self.child.stdout.take().context("no stdout")?;
        let ended = timeout(UNTIL_EMPTY * 2, async {
            output.read_to_string(&mut table).await?;
            anyhow::Ok(self.child.wait().await?)
        });
        let status = ended.await.context("`warren audit` does not end")??;
        ensure!(
            status.success(),
            "I9: `warren audit` ended with {status}:\n{table}"
        );
        let verdict = table.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("");
        Ok(format!("`warren audit` ended with 0: {}", verdict.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Books {
        Books {
            accepted: [60, 50],
            stored: [(70, 5), (30, 5)],
            tally: Tally {
                answers: [(202, 20), (422, 1)].into(),
                accepted_by: [60, 50],
                accepted: 100,
                ..Tally::default()
            },
            rows: 100,
        }
    }

    #[test]
    fn books_that_agree_say_so_and_each_message_too_many_or_too_few_is_found() {
        let told = good().agree().unwrap();
        assert!(
            told.contains("accepted 110") && told.contains("stored 100"),
            "{told}"
        );
        let more = |change: fn(&mut Books)| {
            let mut books = good();
            change(&mut books);
            books.agree().unwrap_err().to_string()
        };
        assert!(more(|books| books.accepted[1] -= 1).contains("ingest-1 counted 49"));
        assert!(more(|books| books.rows += 1).contains("101 rows"));
        assert!(more(|books| books.stored[0].1 -= 1).contains("9 as duplicates"));
        assert!(more(|books| books.tally.broken = 1).contains("broke off"));
        assert!(more(|books| *books = Books::default()).contains("clients saw 0"));
    }

    #[test]
    fn what_was_counted_before_is_left_out() {
        let mut after = good();
        after.accepted = [61, 52];
        after.tally.accepted_by = [61, 52];
        after.stored = [(71, 5), (31, 6)];
        after.rows = 102;
        after.tally.answers.insert(202, 23);
        let since = after.since(&good());
        assert_eq!((since.accepted, since.rows), ([1, 2], 2));
        since.agree().unwrap();
    }
}
