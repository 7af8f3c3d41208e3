//! What nobody can store, on its way into the table of dead letters.

use sea_orm::sqlx;
use warren_domain::Timestamp;
use warren_domain::ports::DeadLetterReason;

use super::script::Script;

/// A line of a delivery that becomes a dead letter.
#[derive(Debug)]
pub(crate) struct DeadLine {
    /// Which line of its row.
    pub(crate) place: usize,
    pub(crate) reason: DeadLetterReason,
    /// Unknown where the line could not be read.
    pub(crate) source: Option<String>,
    pub(crate) line: Vec<u8>,
}

/// What all dead letters of one row share.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) group: String,
    pub(crate) seq: i64,
    pub(crate) severity: i64,
    pub(crate) received_at: i64,
    pub(crate) attempt: u32,
}

/// Writes the statement that keeps one dead letter.
pub(crate) fn keep(script: &mut Script, origin: &Origin, dead: &DeadLine) -> Result<(), sqlx::Error> {
    script
        .statement(
            "insert into dead_letters (\"group\", seq, place, reason, detail, attempt, first_seen, died_at, \
             severity, source, line) values (?,?,?,?,?,?,?,?,?,?,?) on conflict do nothing",
        )
        .bind(origin.group.clone())?
        .bind(origin.seq)?
        .bind(i64::try_from(dead.place).unwrap_or(i64::MAX))?
        .bind(dead.reason.code)?
        .bind(dead.reason.detail.clone())?
        .bind(i64::from(origin.attempt))?
        .bind(origin.received_at)?
        .bind(Timestamp::now().unix_micros())?
        .bind(origin.severity)?
        .bind(dead.source.clone())?
        .bind(dead.line.clone())?;
    Ok(())
}
