//! The fast way in: binary COPY straight into the table.

use std::io;
use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use warren_domain::Message;

use crate::counts::Deltas;
use crate::error::Failure;
use crate::row::{postgres_micros, put_jsonb, severity_number};
use crate::session::WriteSession;

/// How much is gathered before it is handed to the connection, in bytes: PostgreSQL works on one piece while the next
/// is being written, and a batch never lies in memory a second time.
const PIECE: usize = 64 << 10;

/// The signature, no flags, no header extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What COPY takes of the table; of its partitions it takes the same when a row comes to one.
const LOCK: &str = "lock table only messages in row exclusive mode";
const TRAILER: i16 = -1;
const FIELDS: i16 = 7;

/// Stores rows that are all new, and their counts, in one transaction; `begun` tells whether it is open already.
///
/// # Errors
/// SQLSTATE 23505 when one of them is stored already; after any error nothing of the transaction will be seen. It is still
/// open, unless the session is closed.
pub(crate) async fn store(session: &WriteSession, rows: &[&Message], begun: bool) -> Result<(), Failure> {
    // COPY would lock it by itself. But where it has to wait for that in vain, it never begins, and costs the session.
    let begin = if begun {
        LOCK.to_owned()
    } else {
        format!("begin; {LOCK}")
    };
    session.run(&begin).await?;
    if let Err(failure) = session.within(send(session, rows)).await {
        if !failure.is_about_a_row() {
            session.spoil();
        }
        return Err(failure);
    }
    let client = session.client();
    let deltas = Deltas::of(rows);
    session
        .within(async {
            // A COMMIT after a failed statement is a rollback, and the failed statement's error is what is returned.
            let parameters = deltas.parameters();
            let (counted, committed) = tokio::join!(
                client.execute(&session.statements().count, &parameters),
                client.batch_execute("commit"),
            );
            counted?;
            committed?;
            Ok(())
        })
        .await
}

/// Copies rows.
///
/// The driver sends a Sync with the COPY and another one after what it copies. PostgreSQL passes over the first while it
/// takes data in; but when it refuses to begin, it answers both, and the second answer would be taken for that of whatever
/// is asked next. An error about a row shows that it had begun.
async fn send(session: &WriteSession, rows: &[&Message]) -> Result<(), Failure> {
    let copy = session
        .client()
        .copy_in::<_, Bytes>(&session.statements().copy)
        .await?;
    let mut copy = pin!(copy);
    let mut buffer = BytesMut::with_capacity(PIECE + (PIECE >> 2));
    buffer.put_slice(HEADER);
    for message in rows {
        put_row(&mut buffer, message)?;
        if buffer.len() >= PIECE {
            copy.feed(buffer.split().freeze()).await?;
            buffer.reserve(PIECE + (PIECE >> 2));
        }
    }
    buffer.put_i16(TRAILER);
    copy.feed(buffer.freeze()).await?;
    copy.finish().await?;
    Ok(())
}

fn put_row(buffer: &mut BytesMut, message: &Message) -> io::Result<()> {
    buffer.put_i16(FIELDS);
    put_field(buffer, message.id.as_uuid().as_bytes())?;
    put_field(buffer, &severity_number(message.severity).to_be_bytes())?;
    put_field(buffer, message.source.as_str().as_bytes())?;
    put_field(buffer, message.body.as_str().as_bytes())?;
    let length_at = buffer.len();
    buffer.put_i32(0);
    put_jsonb(buffer, &message.attributes)?;
    let length = length_of(buffer.len() - length_at - 4)?;
    buffer[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    put_field(buffer, &postgres_micros(message.occurred_at).to_be_bytes())?;
    put_field(buffer, &postgres_micros(message.received_at).to_be_bytes())
}

fn put_field(buffer: &mut BytesMut, value: &[u8]) -> io::Result<()> {
    buffer.put_i32(length_of(value.len())?);
    buffer.put_slice(value);
    Ok(())
}

fn length_of(bytes: usize) -> io::Result<i32> {
    i32::try_from(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a field of 2 GiB or more"))
}
