//! The statements that a commit of the log is made of.

use sea_orm::sqlx;
use warren_domain::Severity;

use super::group::{Group, Position};
use super::head::{Amount, Head};
use super::packet::{Packet, write_traces};
use super::script::Script;

/// Appends a row behind `head`, and moves `head` on.
pub(super) fn append(script: &mut Script, head: &mut Head, row: Packet, now: i64) -> Result<(), sqlx::Error> {
    let amount = Amount {
        messages: row.messages as u64,
        bytes: row.lines.len() as u64,
        packets: 1,
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
pub(super) fn write_totals(script: &mut Script, head: &Head) -> Result<(), sqlx::Error> {
    script.statement(
        "update log_totals set \
         messages = case severity when 5 then ? when 9 then ? when 13 then ? when 17 then ? else ? end, \
         bytes = case severity when 5 then ? when 9 then ? when 13 then ? when 17 then ? else ? end, \
         packets = case severity when 5 then ? when 9 then ? when 13 then ? when 17 then ? else ? end",
    );
    for severity in Severity::ALL {
        script.bind(head.offered(severity).messages as i64)?;
    }
    for severity in Severity::ALL {
        script.bind(head.offered(severity).bytes as i64)?;
    }
    for severity in Severity::ALL {
        script.bind(head.offered(severity).packets as i64)?;
    }
    Ok(())
}

pub(super) fn write_position(
    script: &mut Script,
    group: &Group,
    position: &Position,
    now: i64,
) -> Result<(), sqlx::Error> {
    script
        .statement(
            "update groups set cursor = ?, passed_messages = ?, passed_bytes = ?, passed_packets = ?, \
             attended_at = ? where name = ?",
        )
        .bind(position.cursor)?
        .bind(position.passed.messages as i64)?
        .bind(position.passed.bytes as i64)?
        .bind(position.passed.packets as i64)?
        .bind(group.attended_at(now))?
        .bind(group.name())?;
    Ok(())
}
