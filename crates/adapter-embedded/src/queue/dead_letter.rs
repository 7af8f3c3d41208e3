//! What nobody can store, on its way into the table of dead letters.

use sea_orm::sqlx;
use warren_domain::ports::{DeadLetter, Death, LetterFacts, Revision};
use warren_domain::{Message, Severity, Timestamp};

use super::script::Script;
use crate::entity::dead_letter;

/// A line of a delivery that becomes a dead letter.
#[derive(Debug)]
pub(crate) struct DeadLine {
    /// Which line of its row.
    pub(crate) place: usize,
    pub(crate) code: String,
    pub(crate) detail: String,
    pub(crate) line: Vec<u8>,
}

/// What all dead letters of one row share.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The group, as the queue calls it.
    pub(crate) group: String,
    /// The same, as people call it.
    pub(crate) queue: String,
    pub(crate) seq: i64,
    pub(crate) severity: i64,
    pub(crate) received_at: i64,
    pub(crate) attempt: u32,
}

impl DeadLine {
    /// Makes the letter of a line that was given up at `died_at`.
    ///
    /// There is no exchange here: the severity, by which lines are queued, stands for it, and the source, where the line
    /// says one, for the routing key. A row that comes again after a crash, and is refused again, died once.
    pub(crate) fn letter(&self, origin: &Origin, died_at: Timestamp) -> DeadLetter {
        let severity = u8::try_from(origin.severity).ok().and_then(Severity::from_number);
        let exchange = severity.map(Severity::as_str).unwrap_or_default();
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let message = Message::from_json(line).ok();
        let (id, said, source) = DeadLetter::identify(exchange, "", line, message.as_ref());
        let place = self.place as u64;
        DeadLetter {
            facts: LetterFacts {
                id,
                reason: self.code.as_str().into(),
                detail: self.detail.as_str().into(),
                exchange: exchange.into(),
                routing_key: source
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default()
                    .into(),
                queue: origin.queue.as_str().into(),
                severity: said.or(severity),
                source,
                message_type: None,
                content_encoding: None,
                attempts: origin.attempt.into(),
                first_at: Timestamp::from_unix_micros(origin.received_at).unwrap_or(died_at),
                last_at: died_at,
            },
            death: Death::of([
                origin.group.as_bytes(),
                &origin.seq.to_be_bytes(),
                &place.to_be_bytes(),
            ]),
            content: line.to_vec(),
        }
    }
}

/// Writes the statement that keeps one dead letter.
pub(crate) fn keep(script: &mut Script, letter: &DeadLetter) -> Result<(), sqlx::Error> {
    let row = dead_letter::Model::of(letter, Revision::generate());
    script
        .statement(dead_letter::KEEP)
        .bind(row.id)?
        .bind(row.revision)?
        .bind(row.death)?
        .bind(row.first_at)?
        .bind(row.last_at)?
        .bind(row.attempts)?
        .bind(row.severity)?
        .bind(row.reason)?
        .bind(row.detail)?
        .bind(row.exchange)?
        .bind(row.routing_key)?
        .bind(row.queue)?
        .bind(row.source)?
        .bind(row.message_type)?
        .bind(row.content_encoding)?
        .bind(row.content)?;
    Ok(())
}
