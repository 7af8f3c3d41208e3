//! The one task that writes the log, and commits for all who wait at once.
//!
//! While a commit is on its way to the disk, publications gather in the channel; the next commit takes all of them.
//! So one caller alone waits for one fsync, a thousand wait for one or two, and nobody waits for a timer. Positions
//! of groups ride along with the next commit, or have one of their own after [`ACK_LINGER`].

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::{self, Sqlite};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use warren_domain::ports::PublishError;
use warren_domain::{Severity, Timestamp};

use super::group::{Group, Position};
use super::head::{Amount, Head};
use super::packet::{Packet, Rows, write_traces};
use super::script::Script;
use super::{Burial, Command, Groups, Limits, Publication, dead_letter, groups};
use crate::database::Database;
use crate::directory::Directory;
use crate::error::{chain, fault};
use crate::health::Condition;
use crate::metrics::{COMMIT_MESSAGES, COMMIT_SECONDS, DEAD_LETTERS, REFUSED};
use crate::space::Space;

/// How long acknowledgements gather when nothing is published; after a crash they are forgotten.
const ACK_LINGER: Duration = Duration::from_millis(20);
/// How many rows one commit may drop, so that publishing never waits long for it.
const TRIM_ROWS: i64 = 2_048;
/// How much may be written before the file is measured again.
const MEASURE_EVERY: u64 = 1 << 20;

/// What a writer is made of.
pub(super) struct Parts {
    pub(super) limits: Limits,
    pub(super) database: Arc<Database>,
    pub(super) space: Arc<Space>,
    pub(super) condition: Arc<Condition>,
    pub(super) settled: Arc<Notify>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) closing: CancellationToken,
    pub(super) directory: Arc<Directory>,
}

pub(super) struct Writer {
    pub(super) parts: Parts,
    pub(super) connection: PoolConnection<Sqlite>,
    pub(super) groups: Groups,
    pub(super) head: watch::Sender<Head>,
    /// For each severity: rows of it up to here are dropped.
    trimmed: [i64; 5],
    /// Written since the file was measured.
    unmeasured: u64,
}

/// What one commit holds.
struct Batch {
    rows: Rows,
    bytes: u64,
    publications: Vec<Publication>,
    burials: Vec<Burial>,
}

impl Writer {
    pub(super) async fn open(parts: Parts) -> Result<Self, sqlx::Error> {
        let (head, groups) = groups::load(&parts.database).await?;
        let mut connection = parts.database.writer().await?;
        // Until the end is orderly, nobody knows which rows were out.
        sqlx::query("update groups set delivered_to = -1")
            .execute(&mut *connection)
            .await?;
        let mut writer = Self {
            parts,
            connection,
            groups,
            head: watch::Sender::new(head),
            trimmed: [0; 5],
            unmeasured: 0,
        };
        writer.measure().await?;
        Ok(writer)
    }

    pub(super) fn head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    pub(super) async fn run(mut self) {
        let closing = self.parts.closing.clone();
        loop {
            let more_to_trim = self.has_more_to_trim();
            let first = tokio::select! {
                biased;
                () = closing.cancelled() => break,
                command = self.parts.commands.recv() => match command {
                    Some(command) => Some(command),
                    None => break,
                },
                () = linger(&self.parts.settled, more_to_trim) => None,
            };
            let mut batch = self.batch();
            let mut next = first;
            let mut apart = None;
            while let Some(command) = next.take() {
                apart = self.gather(&mut batch, command);
                if apart.is_none() && batch.bytes < self.parts.limits.commit_bytes {
                    next = self.parts.commands.try_recv().ok();
                }
            }
            self.commit(batch).await;
            match apart {
                Some(Command::Join { name, severities, reply }) => {
                    let group = self.join(&name, severities).await.map_err(Arc::new);
                    answer(reply, group);
                }
                Some(Command::Tend(done)) => {
                    self.tend().await;
                    answer(done, ());
                }
                _ => {}
            }
        }
        self.finish().await;
    }

    fn batch(&self) -> Batch {
        Batch {
            rows: Rows::new(self.parts.limits.packet),
            bytes: 0,
            publications: Vec::new(),
            burials: Vec::new(),
        }
    }

    /// Puts a command into the batch; returns one that has to be done apart from it.
    fn gather(&mut self, batch: &mut Batch, command: Command) -> Option<Command> {
        match command {
            Command::Publish(mut publication) => {
                if let Err(error) = self.admit(batch, &publication) {
                    publication.answer(Err(error));
                    return None;
                }
                for packet in mem::take(&mut publication.packets) {
                    batch.rows.push(packet);
                }
                batch.bytes += publication.bytes;
                batch.publications.push(publication);
            }
            Command::Bury(burial) => {
                batch.bytes += burial.lines.iter().map(|dead| dead.line.len() as u64).sum::<u64>();
                batch.burials.push(burial);
            }
            apart => return Some(apart),
        }
        None
    }

    fn admit(&self, batch: &Batch, publication: &Publication) -> Result<(), PublishError> {
        if let Some(reason) = self.parts.condition.broken() {
            return Err(PublishError::unavailable(reason));
        }
        let waiting = self.groups.store().lag(&self.head.borrow()).bytes + batch.bytes;
        let bytes = self.unmeasured + batch.bytes + publication.bytes;
        self.parts.space.admit(bytes, waiting).map_err(|reason| {
            let messages: usize = publication.packets.iter().map(|packet| packet.messages).sum();
            counter!(REFUSED).increment(messages as u64);
            self.parts.condition.set_full(Some(reason.clone()));
            PublishError::unavailable(reason)
        })
    }

    /// Writes the batch, and whatever positions have changed, in one transaction; answers everybody.
    async fn commit(&mut self, batch: Batch) {
        let Batch {
            rows,
            bytes,
            publications,
            burials,
        } = batch;
        let rows = rows.into_inner();
        let mut head = *self.head.borrow();
        let positions = self.positions(&burials);
        let began = Instant::now();
        let outcome = match self.script(&mut head, rows, &positions, &burials) {
            Ok(script) if script.is_empty() => return,
            Ok(script) => {
                self.parts.condition.commit_begins();
                script.commit(&mut self.connection).await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                self.parts.condition.commit_succeeded();
                histogram!(COMMIT_SECONDS, "file" => "queue").record(began.elapsed());
                let messages = head.total().messages - self.head.borrow().total().messages;
                self.trim_done(&positions);
                self.head.send_replace(head);
                if !publications.is_empty() {
                    histogram!(COMMIT_MESSAGES, "file" => "queue").record(messages as f64);
                    self.parts.condition.set_full(None);
                }
                publications
                    .into_iter()
                    .for_each(|publication| publication.answer(Ok(())));
                burials.into_iter().for_each(Burial::succeeded);
                self.unmeasured += bytes;
                if self.unmeasured > MEASURE_EVERY {
                    self.measure_or_log().await;
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                let path = self.parts.database.path().to_owned();
                let answer = self
                    .parts
                    .condition
                    .commit_failed(fault(&error), Arc::clone(&error), path);
                for (group, _, dirty) in &positions {
                    if *dirty {
                        group.set_dirty();
                    }
                }
                for publication in publications {
                    publication.answer(Err(answer.clone()));
                }
                for burial in burials {
                    burial.failed(&error);
                }
            }
        }
    }

    /// Returns where every group stands once `burials` are settled, and whether the file says otherwise.
    fn positions(&self, burials: &[Burial]) -> Vec<(Arc<Group>, Position, bool)> {
        self.groups
            .iter()
            .map(|group| {
                let settled: BTreeSet<_> = burials
                    .iter()
                    .filter(|burial| Arc::ptr_eq(&burial.group, group))
                    .map(|burial| burial.origin.seq)
                    .collect();
                let (position, dirty) = group.take_position(&settled);
                (Arc::clone(group), position, dirty || !settled.is_empty())
            })
            .collect()
    }

    fn script(
        &self,
        head: &mut Head,
        rows: Vec<Packet>,
        positions: &[(Arc<Group>, Position, bool)],
        burials: &[Burial],
    ) -> Result<Script, sqlx::Error> {
        let mut script = Script::begin();
        let now = Timestamp::now().unix_micros();
        let appends = !rows.is_empty();
        for row in rows {
            append(&mut script, head, row, now)?;
        }
        if appends {
            write_totals(&mut script, head)?;
        }
        for burial in burials {
            for dead in &burial.lines {
                dead_letter::keep(&mut script, &burial.origin, dead)?;
            }
        }
        for (group, position, dirty) in positions {
            if *dirty {
                write_position(&mut script, group, position, now)?;
            }
        }
        self.trim(&mut script, positions)?;
        Ok(script)
    }

    /// Drops rows that every group that hears their severity has passed.
    fn trim(
        &self,
        script: &mut Script,
        positions: &[(Arc<Group>, Position, bool)],
    ) -> Result<(), sqlx::Error> {
        let passed = passed_by_all(positions);
        let Some((after, to)) = self.trim_range(&passed) else {
            return Ok(());
        };
        script
            .statement(
                "delete from log where seq > ? and seq <= ? and seq <= case severity \
                 when 5 then ? when 9 then ? when 13 then ? when 17 then ? else ? end",
            )
            .bind(after)?
            .bind(to)?;
        for passed in passed {
            script.bind(passed)?;
        }
        Ok(())
    }

    /// Returns the rows to look at: the next ones that somebody has passed and that are still there.
    fn trim_range(&self, passed: &[i64; 5]) -> Option<(i64, i64)> {
        let behind = self
            .trimmed
            .iter()
            .zip(passed)
            .filter(|(trimmed, passed)| trimmed < passed);
        let after = *behind.clone().map(|(trimmed, _)| trimmed).min()?;
        let to = *behind.map(|(_, passed)| passed).max()?;
        Some((after, to.min(after + TRIM_ROWS)))
    }

    fn trim_done(&mut self, positions: &[(Arc<Group>, Position, bool)]) {
        let passed = passed_by_all(positions);
        if let Some((_, to)) = self.trim_range(&passed) {
            for (trimmed, passed) in self.trimmed.iter_mut().zip(passed) {
                *trimmed = (*trimmed).max(passed.min(to));
            }
        }
    }

    fn has_more_to_trim(&self) -> bool {
        let positions: Vec<_> = self
            .groups
            .iter()
            .map(|group| (Arc::clone(group), group.position(), false))
            .collect();
        self.trim_range(&passed_by_all(&positions))
            .is_some_and(|(after, to)| to - after >= TRIM_ROWS)
    }

    /// Measures what the queue takes on the disk.
    pub(super) async fn measure(&mut self) -> Result<(), sqlx::Error> {
        let footprint = self.parts.database.footprint(&mut self.connection).await?;
        self.parts.space.set_queue(footprint);
        self.unmeasured = 0;
        Ok(())
    }

    pub(super) async fn measure_or_log(&mut self) {
        if let Err(error) = self.measure().await {
            tracing::warn!(error = chain(&error), "the queue's file cannot be measured");
        }
    }

    /// Keeps the positions, and that they are exact; then the next start knows what was out.
    async fn finish(mut self) {
        self.parts.commands.close();
        let mut script = Script::begin();
        let now = Timestamp::now().unix_micros();
        let outcome = self
            .positions(&[])
            .iter()
            .try_for_each(|(group, position, _)| {
                write_position(&mut script, group, position, now)?;
                script
                    .statement("update groups set delivered_to = ? where name = ?")
                    .bind(position.delivered_to)?
                    .bind(group.name())?;
                Ok(())
            });
        let outcome = match outcome {
            Ok(()) => script.commit(&mut self.connection).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::warn!(
                error = chain(&error),
                "acknowledgements were not kept; what they acknowledged will be delivered again"
            );
        }
        self.parts.condition.set_stopped();
        drop(self.connection);
        drop(self.parts.directory);
    }
}

/// Waits until positions are worth a commit of their own.
async fn linger(settled: &Notify, more_to_trim: bool) {
    if !more_to_trim {
        settled.notified().await;
    }
    sleep(ACK_LINGER).await;
}

fn append(script: &mut Script, head: &mut Head, row: Packet, now: i64) -> Result<(), sqlx::Error> {
    let amount = Amount {
        messages: row.messages as u64,
        bytes: row.lines.len() as u64,
    };
    head.append(row.severity, amount);
    script
        .statement("insert into log values (?,?,?,?,?,?)")
        .bind(head.seq)?
        .bind(i64::from(row.severity.number()))?
        .bind(amount.messages as i64)?
        .bind(now)?
        .bind(write_traces(&row.traces))?
        .bind(row.lines)?;
    Ok(())
}

/// Writes all totals in one statement, whichever changed: its text is then always the same.
fn write_totals(script: &mut Script, head: &Head) -> Result<(), sqlx::Error> {
    script.statement(
        "update log_totals set \
         messages = case severity when 5 then ? when 9 then ? when 13 then ? when 17 then ? else ? end, \
         bytes = case severity when 5 then ? when 9 then ? when 13 then ? when 17 then ? else ? end",
    );
    for severity in Severity::ALL {
        script.bind(head.offered(severity).messages as i64)?;
    }
    for severity in Severity::ALL {
        script.bind(head.offered(severity).bytes as i64)?;
    }
    Ok(())
}

fn write_position(
    script: &mut Script,
    group: &Group,
    position: &Position,
    now: i64,
) -> Result<(), sqlx::Error> {
    script
        .statement(
            "update groups set cursor = ?, passed_messages = ?, passed_bytes = ?, attended_at = ? where name = ?",
        )
        .bind(position.cursor)?
        .bind(position.passed.messages as i64)?
        .bind(position.passed.bytes as i64)?
        .bind(group.attended_at(now))?
        .bind(group.name())?;
    Ok(())
}

/// For each severity, returns the row that every group that hears it has passed.
fn passed_by_all(positions: &[(Arc<Group>, Position, bool)]) -> [i64; 5] {
    Severity::ALL.map(|severity| {
        positions
            .iter()
            .filter(|(group, _, _)| group.severities().contains(severity))
            .map(|(_, position, _)| position.cursor)
            .min()
            .unwrap_or(0)
    })
}

/// Tells a caller what became of its request; one that is gone does not want to know.
fn answer<T>(caller: oneshot::Sender<T>, outcome: T) {
    caller.send(outcome).ok();
}

impl Publication {
    fn answer(self, outcome: Result<(), PublishError>) {
        answer(self.reply, outcome);
    }
}

impl Burial {
    fn succeeded(self) {
        self.group.buried(self.origin.seq);
        for dead in &self.lines {
            counter!(DEAD_LETTERS, "reason" => dead.reason.code).increment(1);
        }
        answer(self.reply, Ok(()));
    }

    fn failed(self, error: &Arc<sqlx::Error>) {
        self.group.give_back(self.origin.seq);
        answer(self.reply, Err(Arc::clone(error)));
    }
}
