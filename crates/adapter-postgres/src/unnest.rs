//! The sure way in: one statement that stores what is new, counts it, and says what was.

use bytes::BytesMut;
use tokio_postgres::types::ToSql;
use uuid::Uuid;
use warren_domain::{Message, MessageId, Severity, SeverityCounts, Timestamp};

use crate::error::Failure;
use crate::row::{Jsonb, Moment, put_jsonb, severity_number};
use crate::session::WriteSession;

/// Stores and counts the new rows among those given column by column; returns how many there were of each severity.
pub(crate) const STORE: &str = "\
    with fresh as (
        insert into messages (id, severity, source, body, attributes, occurred_at, received_at)
        select * from unnest(
            $1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::jsonb[], $6::timestamptz[], $7::timestamptz[]
        )
        on conflict (id) do nothing
        returning id, severity, source
    ), counted as (
        insert into message_count_deltas (minute, severity, source, count)
        select message_minute(id), severity, source, count(*) from fresh group by 1, 2, 3
    )
    select severity, count(*) from fresh group by severity";

/// Returns [`STORE`], or what stores everything without a look at what is there.
#[cfg(feature = "planted-bugs")]
pub(crate) fn planted_store() -> String {
    match warren_planted::planted(warren_planted::Bug::NoUniqueKey) {
        true => STORE.replace("on conflict (id) do nothing", ""),
        false => STORE.to_owned(),
    }
}

/// How many bytes of text one statement takes. PostgreSQL ends the connection at a message of 1 GiB; this is far less,
/// because a statement's parameters lie in memory twice.
const MOST_BYTES: usize = 16 << 20;

/// How many rows one statement takes at most. Each statement has the whole statement timeout, so that a database that needs
/// milliseconds for a row (a trigger, a disk that is busy) still gets through a large batch.
pub(crate) const MOST_ROWS: usize = 500;

/// No attributes, in the binary format of `jsonb`.
const EMPTY: &[u8] = b"\x01{}";

/// A row and its attributes in the binary format of `jsonb`.
struct Row<'a> {
    message: &'a Message,
    attributes: &'a [u8],
}

impl Row<'_> {
    fn bytes(&self) -> usize {
        self.message.body.as_str().len() + self.message.source.as_str().len() + self.attributes.len()
    }
}

/// Stores those of `rows` that are new, and their counts, in one transaction; returns what was new.
///
/// `most`: how many rows one statement takes. `begun` tells whether the transaction is open already. If not, a batch that fits one statement is its own
/// transaction: one round trip, one flush.
pub(crate) async fn store(
    session: &WriteSession,
    rows: &[&Message],
    begun: bool,
    most: usize,
) -> Result<SeverityCounts, Failure> {
    let mut attributes = BytesMut::new();
    let mut ends = Vec::with_capacity(rows.len());
    for message in rows {
        put_jsonb(&mut attributes, &message.attributes)?;
        ends.push(attributes.len());
    }
    let mut begin = 0;
    let rows: Vec<_> = rows
        .iter()
        .zip(ends)
        .map(|(message, end)| {
            let attributes = &attributes[begin..end];
            begin = end;
            Row { message, attributes }
        })
        .collect();
    let parts: Vec<_> = Parts { rows: &rows, most }.collect();
    if let ([part], false) = (&parts[..], begun) {
        return store_part(session, part).await;
    }
    let mut inserted = SeverityCounts::default();
    if !begun {
        session.run("begin").await?;
    }
    for part in parts {
        inserted += store_part(session, part).await?;
    }
    session.run("commit").await?;
    Ok(inserted)
}

/// Does what [`store`] does with a message that is nobody's, and takes it back.
pub(crate) async fn rehearse(session: &WriteSession) -> Result<(), Failure> {
    let (ids, severities) = (
        [MessageId::generate().as_uuid()],
        [severity_number(Severity::Info)],
    );
    let (sources, bodies, attributes) = (["default"], [""], [Jsonb(EMPTY)]);
    let moments = [Moment(Timestamp::now())];
    let parameters: [&(dyn ToSql + Sync); 7] = [
        &ids.as_slice(),
        &severities.as_slice(),
        &sources.as_slice(),
        &bodies.as_slice(),
        &attributes.as_slice(),
        &moments.as_slice(),
        &moments.as_slice(),
    ];
    let client = session.client();
    session
        .within(async {
            // Sent together; the first to fail is the one that is returned.
            let (begun, stored, undone) = tokio::join!(
                client.batch_execute("begin"),
                client.query(&session.statements().unnest, &parameters),
                client.batch_execute("rollback"),
            );
            begun?;
            stored?;
            undone?;
            Ok(())
        })
        .await
}

async fn store_part(session: &WriteSession, rows: &[Row<'_>]) -> Result<SeverityCounts, Failure> {
    let messages = || rows.iter().map(|row| row.message);
    let ids: Vec<Uuid> = messages().map(|message| message.id.as_uuid()).collect();
    let severities: Vec<i16> = messages()
        .map(|message| severity_number(message.severity))
        .collect();
    let sources: Vec<&str> = messages().map(|message| message.source.as_str()).collect();
    let bodies: Vec<&str> = messages().map(|message| message.body.as_str()).collect();
    let attributes: Vec<Jsonb<'_>> = rows.iter().map(|row| Jsonb(row.attributes)).collect();
    let occurred: Vec<Moment> = messages().map(|message| Moment(message.occurred_at)).collect();
    let received: Vec<Moment> = messages().map(|message| Moment(message.received_at)).collect();
    let parameters: [&(dyn ToSql + Sync); 7] = [
        &ids,
        &severities,
        &sources,
        &bodies,
        &attributes,
        &occurred,
        &received,
    ];
    let counted = session
        .within(async {
            let rows = session
                .client()
                .query(&session.statements().unnest, &parameters)
                .await?;
            rows.iter()
                .map(|row| Ok((row.try_get::<_, i16>(0)?, row.try_get::<_, i64>(1)?)))
                .collect::<Result<Vec<_>, Failure>>()
        })
        .await?;
    let mut inserted = SeverityCounts::default();
    for (number, count) in counted {
        let severity = u8::try_from(number).ok().and_then(Severity::from_number);
        if let (Some(severity), Ok(count)) = (severity, u64::try_from(count)) {
            inserted.add(severity, count);
        }
    }
    Ok(inserted)
}

/// Splits rows into what fits one statement each, at least one row.
struct Parts<'r, 'm> {
    rows: &'r [Row<'m>],
    most: usize,
}

impl<'r, 'm> Iterator for Parts<'r, 'm> {
    type Item = &'r [Row<'m>];

    fn next(&mut self) -> Option<Self::Item> {
        if self.rows.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let fits = self.rows.iter().take(self.most).take_while(|row| {
            bytes += row.bytes();
            bytes <= MOST_BYTES
        });
        let (part, rest) = self.rows.split_at(fits.count().max(1));
        self.rows = rest;
        Some(part)
    }
}
