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
use sea_orm::sqlx;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use warren_domain::ports::PublishError;
use warren_domain::{SeveritySet, Timestamp};

use super::dead_letters::LetterWork;
use super::group::{Group, Position};
use super::head::Head;
use super::live::Feeds;
use super::packet::{Packet, Rows};
use super::pen::Pen;
use super::script::Script;
use super::statements::{append, write_position, write_totals};
use super::trim::{Step, Trim};
use super::{Burial, Command, Groups, Limits, Publication, dead_letter, groups};
use crate::database::Database;
use crate::directory::Directory;
use crate::error::{chain, fault};
use crate::health::Condition;
use crate::metrics::{COMMIT_MESSAGES, COMMIT_SECONDS, DEAD_LETTERS, REFUSED};
use crate::space::Space;

/// How long acknowledgements gather when nothing is published; after a crash they are forgotten.
const ACK_LINGER: Duration = Duration::from_millis(20);
/// How long positions wait at most while commits fail.
const LONGEST_LINGER: Duration = Duration::from_secs(2);
/// How much may be written before the file is measured again.
const MEASURE_EVERY: u64 = 1 << 20;

/// What a writer is made of.
pub(super) struct Parts {
    pub(super) limits: Limits,
    pub(super) database: Arc<Database>,
    pub(super) space: Arc<Space>,
    pub(super) condition: Arc<Condition>,
    pub(super) settled: Arc<Notify>,
    pub(super) feeds: Arc<Feeds>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) closing: CancellationToken,
    /// Held until the last commit is done.
    pub(super) _directory: Arc<Directory>,
}

pub(super) struct Writer {
    pub(super) parts: Parts,
    pub(super) pen: Pen,
    pub(super) groups: Groups,
    pub(super) head: watch::Sender<Head>,
    trim: Trim,
    /// Written since the file was measured.
    unmeasured: u64,
    /// Grows while commits fail.
    linger: Duration,
}

/// What one commit holds.
struct Batch {
    rows: Rows,
    bytes: u64,
    publications: Vec<Publication>,
    burials: Vec<Burial>,
}

/// What became of a batch.
enum Written {
    /// There was nothing to write.
    Nothing,
    /// It is on the disk, and so much of the log is dropped.
    Committed(Option<Step>),
}

/// Where a group stands, and whether the file says otherwise.
struct Standing {
    group: Arc<Group>,
    position: Position,
    dirty: bool,
}

fn cursors(positions: &[Standing]) -> impl Iterator<Item = (SeveritySet, i64)> {
    positions
        .iter()
        .map(|standing| (standing.group.severities(), standing.position.cursor))
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
            trim: Trim::open(&mut connection, &head).await?,
            pen: Pen::new(
                connection,
                Arc::clone(&parts.database),
                Arc::clone(&parts.condition),
            ),
            parts,
            groups,
            head: watch::Sender::new(head),
            unmeasured: 0,
            linger: ACK_LINGER,
        };
        writer.measure().await?;
        Ok(writer)
    }

    pub(super) fn head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    pub(super) async fn run(mut self) {
        let closing = self.parts.closing.clone();
        let _stopped = self.parts.condition.stopped_on_drop();
        loop {
            let more_to_trim = self.has_more_to_trim();
            let first = tokio::select! {
                biased;
                () = closing.cancelled() => break,
                command = self.parts.commands.recv() => match command {
                    Some(command) => Some(command),
                    None => break,
                },
                () = linger(&self.parts.settled, more_to_trim, self.linger) => None,
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
                Some(Command::Join { joining, reply }) => {
                    let membership = self.join(joining).await;
                    answer(reply, self.heeded(membership).map_err(Arc::new));
                }
                Some(Command::Letters { work, reply }) => {
                    let changed = self.change_letters(&work).await;
                    answer(reply, self.heeded(changed));
                }
                Some(Command::Find { name, reply }) => answer(reply, self.groups.get(&name).cloned()),
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
                batch.bytes += burial
                    .lines
                    .iter()
                    .map(|dead| dead.line.len() as u64)
                    .sum::<u64>();
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
            self.parts.condition.set_full(reason.clone());
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
        if let Some(reason) = self.parts.condition.broken() {
            // Publications were not admitted; what was acknowledged is delivered again by the next start.
            let error = Arc::new(sqlx::Error::Protocol(reason));
            burials.into_iter().for_each(|burial| burial.failed(&error));
            return;
        }
        let mut head = *self.head.borrow();
        let positions = self.positions(&burials);
        let rows = rows.into_inner();
        let news = self.parts.feeds.news(&rows);
        let began = Instant::now();
        let outcome = self.write(&mut head, rows, &positions, &burials).await;
        match outcome {
            Ok(Written::Nothing) => {}
            Ok(Written::Committed(trimmed)) => {
                histogram!(COMMIT_SECONDS, "file" => self.parts.limits.section.log()).record(began.elapsed());
                self.committed(head, trimmed, &publications);
                self.parts.feeds.spread(news);
                for publication in publications {
                    publication.answer(Ok(()));
                }
                burials.into_iter().for_each(Burial::succeeded);
                self.unmeasured += bytes;
                if self.unmeasured > MEASURE_EVERY {
                    self.measure_or_log().await;
                }
            }
            Err(error) => self.failed(error, &positions, publications, burials),
        }
    }

    /// Writes everything in one transaction.
    async fn write(
        &mut self,
        head: &mut Head,
        rows: Vec<Packet>,
        positions: &[Standing],
        burials: &[Burial],
    ) -> Result<Written, sqlx::Error> {
        let trimmed = self.trim.step(self.pen.get()?, cursors(positions)).await?;
        let script = script(head, rows, positions, burials, trimmed.as_ref())?;
        if script.is_empty() {
            return Ok(Written::Nothing);
        }
        self.parts.condition.commit_begins();
        script.commit(self.pen.get()?).await?;
        Ok(Written::Committed(trimmed))
    }

    fn committed(&mut self, head: Head, trimmed: Option<Step>, publications: &[Publication]) {
        self.parts.condition.commit_succeeded();
        self.linger = ACK_LINGER;
        if let Some(step) = trimmed {
            self.trim.committed(&step);
        }
        let before = self.head.send_replace(head);
        if !publications.is_empty() {
            let messages = head.total().messages - before.total().messages;
            histogram!(COMMIT_MESSAGES, "file" => self.parts.limits.section.log()).record(messages as f64);
        }
    }

    fn failed(
        &mut self,
        error: sqlx::Error,
        positions: &[Standing],
        publications: Vec<Publication>,
        burials: Vec<Burial>,
    ) {
        let error = Arc::new(error);
        let path = self.parts.database.path().to_owned();
        let refusal = self
            .parts
            .condition
            .commit_failed(fault(&error), Arc::clone(&error), path);
        self.linger = (self.linger * 2).min(LONGEST_LINGER);
        for standing in positions.iter().filter(|standing| standing.dirty) {
            standing.group.set_dirty();
        }
        for publication in publications {
            publication.answer(Err(refusal.clone()));
        }
        for burial in burials {
            burial.failed(&error);
        }
    }

    /// Keeps or removes dead letters, in a transaction of their own.
    async fn change_letters(&mut self, work: &LetterWork) -> Result<u64, sqlx::Error> {
        let changed = work.script()?.commit_returning(self.pen.get()?).await?;
        self.measure_or_log().await;
        Ok(changed)
    }

    /// Returns where every group stands once `burials` are settled, and whether the file says otherwise.
    fn positions(&self, burials: &[Burial]) -> Vec<Standing> {
        self.groups
            .iter()
            .map(|group| {
                let settled: BTreeSet<_> = burials
                    .iter()
                    .filter(|burial| Arc::ptr_eq(&burial.group, group))
                    .map(|burial| burial.origin.seq)
                    .collect();
                let (position, dirty) = group.take_position(&settled);
                Standing {
                    group: Arc::clone(group),
                    position,
                    dirty: dirty || !settled.is_empty(),
                }
            })
            .collect()
    }

    /// Tells whether dropping rows is worth a commit of its own.
    fn has_more_to_trim(&self) -> bool {
        let groups = self.groups.iter();
        self.trim
            .is_behind(groups.map(|group| (group.severities(), group.position().cursor)))
    }

    /// Measures what the queue takes on the disk.
    pub(super) async fn measure(&mut self) -> Result<(), sqlx::Error> {
        let footprint = self.parts.database.footprint(self.pen.get()?).await?;
        self.parts.space.set_queue(footprint);
        self.unmeasured = 0;
        Ok(())
    }

    pub(super) async fn measure_or_log(&mut self) {
        let measured = self.measure().await;
        if let Err(error) = self.heeded(measured) {
            tracing::warn!(error = chain(&error), "the queue's file cannot be measured");
        }
    }

    async fn write_down(&mut self, script: Script) -> Result<(), sqlx::Error> {
        script.commit(self.pen.get()?).await
    }

    /// Hands an outcome on; when the disk failed, nothing more is written.
    pub(super) fn heeded<T>(&self, outcome: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        if let Err(error) = &outcome {
            self.pen.heed(error);
        }
        outcome
    }

    /// Commits a little when the last commit failed, so that it shows that the disk takes writes again though nobody
    /// publishes: whoever asks for the health may be waiting for that before it sends anything.
    pub(super) async fn probe(&mut self) {
        if !self.parts.condition.is_troubled() {
            return;
        }
        let mut script = Script::begin();
        let head = *self.head.borrow();
        let outcome = match write_totals(&mut script, &head) {
            Ok(()) => self.write_down(script).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                self.parts.condition.commit_succeeded();
                self.linger = ACK_LINGER;
            }
            Err(error) => self.failed(error, &[], Vec::new(), Vec::new()),
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
            .try_for_each(|Standing { group, position, .. }| {
                write_position(&mut script, group, position, now)?;
                script
                    .statement("update groups set delivered_to = ? where name = ?")
                    .bind(position.delivered_to)?
                    .bind(group.name())?;
                Ok(())
            });
        let outcome = match outcome {
            Ok(()) => self.write_down(script).await,
            Err(error) => Err(error),
        };
        if let Err(error) = self.heeded(outcome) {
            tracing::warn!(
                error = chain(&error),
                "acknowledgements were not kept; what they acknowledged will be delivered again"
            );
        }
    }
}

/// Writes down one transaction; moves `head` on behind its rows.
fn script(
    head: &mut Head,
    rows: Vec<Packet>,
    positions: &[Standing],
    burials: &[Burial],
    trimmed: Option<&Step>,
) -> Result<Script, sqlx::Error> {
    let mut script = Script::begin();
    let died_at = Timestamp::now();
    let now = died_at.unix_micros();
    let appends = !rows.is_empty();
    for row in rows {
        append(&mut script, head, row, now)?;
    }
    if appends {
        write_totals(&mut script, head)?;
    }
    for burial in burials {
        for dead in &burial.lines {
            let letter = dead.letter(&burial.origin, died_at);
            dead_letter::keep(&mut script, &letter)?;
        }
    }
    for standing in positions.iter().filter(|standing| standing.dirty) {
        write_position(&mut script, &standing.group, &standing.position, now)?;
    }
    if let Some(step) = trimmed {
        step.write(&mut script)?;
    }
    Ok(script)
}

/// Waits until positions are worth a commit of their own.
async fn linger(settled: &Notify, more_to_trim: bool, patience: Duration) {
    if !more_to_trim {
        settled.notified().await;
    }
    sleep(patience).await;
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
            counter!(DEAD_LETTERS, "reason" => dead.code.clone()).increment(1);
        }
        answer(self.reply, Ok(()));
    }

    fn failed(self, error: &Arc<sqlx::Error>) {
        self.group.give_back(self.origin.seq);
        answer(self.reply, Err(Arc::clone(error)));
    }
}
