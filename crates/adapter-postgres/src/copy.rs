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
const TRAILER: i16 = -1;
const FIELDS: i16 = 7;

/// Stores rows that are all new, and their counts, in one transaction; `begun` tells whether it is open already.
///
/// # Errors
/// SQLSTATE 23505 when one of them is stored already; after any error the transaction is still open and nothing of
/// it will be seen.
pub(crate) async fn store(session: &WriteSession, rows: &[&Message], begun: bool) -> Result<(), Failure> {
    let client = session.client();
    session
        .within(async {
            // Sent together: BEGIN costs no round trip of its own.
            let begin = async {
                if begun {
                    Ok(())
                } else {
                    client.batch_execute("begin").await
                }
            };
            let (begun, copy) = tokio::join!(begin, client.copy_in::<_, Bytes>(&session.statements().copy),);
            begun?;
            let mut copy = pin!(copy?);
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
        })
        .await?;
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
