//! Hostile requests against the whole program, on both backends: never a 5xx, and what is taken is stored as sent.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use warren_e2e::StoredRow;
use warren_e2e::bed::{balanced_books, on_shared_servers};
use warren_e2e::compare::same_value;
use warren_e2e::generate::severity_number;
use warren_e2e::process::Service;
use warren_e2e::sqlite::DataFolder;

use crate::alone;
use crate::hostile_requests::{Expect, Hostile, table};

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_meet_no_5xx_and_what_is_taken_reads_back_equal_from_both_stores() {
    let _alone = alone().await;
    let table = table();
    assert!(table.len() >= 120, "only {} requests", table.len());
    let sent = sent(&table);

    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    attack(&table, &warren, &warren).await;
    warren.stop(Duration::from_secs(30)).await.unwrap();
    let in_sqlite = folder.read().await.unwrap();
    assert_as_sent(&in_sqlite, &sent, accepted(&table));

    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let (mut ingest, mut worker) = (bed.ingest().unwrap(), bed.worker().unwrap());
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        attack(&table, &ingest, &worker).await;
        ingest.stop(Duration::from_secs(30)).await.unwrap();
        worker.stop(Duration::from_secs(30)).await.unwrap();
        bed.nothing_waits().await.unwrap();
        let mut in_postgres = Vec::new();
        bed.database.each_row(|row| in_postgres.push(row)).await.unwrap();
        assert_as_sent(&in_postgres, &sent, accepted(&table));
        assert_same_rows(in_sqlite, in_postgres);
    })
    .await;
}

fn taken(hostile: &Hostile) -> usize {
    match hostile.expect {
        Expect::Taken { accepted, .. } => accepted,
        _ => 0,
    }
}

/// A record of a request that was taken.
struct Sent {
    /// The name of the request.
    request: String,
    record: Value,
    /// Whether it must be stored; false where the request had rejected records too, which are not told apart here.
    is_due: bool,
}

/// Returns the records of all requests that are taken, in the order in which rows are to be looked for among them.
fn sent(table: &[Hostile]) -> Vec<Sent> {
    let mut sent = Vec::new();
    for hostile in table {
        let Expect::Taken {
            accepted, rejected, ..
        } = hostile.expect
        else {
            continue;
        };
        let (records, is_due) = (records(hostile), rejected == 0);
        assert!(
            !is_due || records.len() == accepted,
            "{}: {} records for {accepted} accepted ones",
            hostile.name,
            records.len()
        );
        sent.extend(records.into_iter().map(|record| Sent {
            request: hostile.name.clone(),
            record,
            is_due,
        }));
    }
    // A row is counted for the first record that fits it: one without an id fits a row with any, and one that was
    // rejected may look here like one that was taken.
    sent.sort_by_key(|sent| (sent.record["id"].is_null(), !sent.is_due));
    sent
}

/// Sends every request, checks every status, and waits until everything taken is stored.
async fn attack(table: &[Hostile], intake: &Service, store: &Service) {
    let mut faults = Vec::new();
    for hostile in table {
        let expected = match &hostile.expect {
            Expect::Refused { status, .. } | Expect::Answered { status } => *status,
            Expect::Taken { .. } => 202,
        };
        let status = exchange(intake.address(), hostile).await;
        if status != Some(expected) {
            faults.push(format!("{}: {status:?}, not {expected}", hostile.name));
        }
    }
    assert!(
        faults.is_empty(),
        "{} of {}:\n{}",
        faults.len(),
        table.len(),
        faults.join("\n")
    );
    let books = balanced_books(intake, store).await.unwrap();
    let accepted = accepted(table) as u64;
    assert_eq!(
        (books.accepted, books.duplicate, books.dead),
        (accepted, 0, 0),
        "{books:?}"
    );
}

fn accepted(table: &[Hostile]) -> usize {
    table.iter().map(taken).sum()
}

/// Sends the bytes on a connection of its own; returns the status of the answer, `None` when there is none.
async fn exchange(address: SocketAddr, hostile: &Hostile) -> Option<u16> {
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let (request, shut) = (hostile.request.clone(), hostile.shut);
    let sending = tokio::spawn(async move {
        // A server may answer and close before it has read everything.
        if writer.write_all(&request).await.is_ok() && shut {
            drop(writer.shutdown().await);
        }
        writer
    });
    let mut answer = Vec::new();
    let reading =
        async { while answer.len() < 12 && reader.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
    timeout(Duration::from_secs(30), reading)
        .await
        .unwrap_or_else(|_| panic!("{}: a hang", hostile.name));
    sending.abort();
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

/// Returns the records of a request that was taken, those that were rejected among them.
fn records(hostile: &Hostile) -> Vec<Value> {
    let (head, body) = parts(&hostile.request);
    let body = match header(&head, "content-encoding") {
        Some(coding) if coding.contains("deflate") => inflate(&inflate(&body)),
        Some(_) => inflate(&body),
        None => body,
    };
    if header(&head, "content-type").is_some_and(|kind| kind.starts_with("text/plain")) {
        return vec![Value::from(Map::from_iter([(
            "body".to_owned(),
            String::from_utf8(body).unwrap().into(),
        )]))];
    }
    match serde_json::from_slice(&body) {
        Ok(Value::Array(items)) => items,
        Ok(record) => vec![record],
        Err(_) => lines(&body).unwrap_or_else(|| {
            // An array or lines, one record of which is no JSON: every object that can be read where it begins.
            let begins = body.iter().enumerate().filter(|(_, byte)| **byte == b'{');
            begins
                .filter_map(|(at, _)| {
                    serde_json::Deserializer::from_slice(&body[at..])
                        .into_iter()
                        .next()?
                        .ok()
                })
                .collect()
        }),
    }
}

/// Reads one record after another, if every one is JSON.
fn lines(body: &[u8]) -> Option<Vec<Value>> {
    serde_json::Deserializer::from_slice(body)
        .into_iter()
        .collect::<Result<_, _>>()
        .ok()
}

/// Takes a request apart, chunks put together.
fn parts(request: &[u8]) -> (String, Vec<u8>) {
    let end = request
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let mut rest = &request[end + 4..];
    if !head.contains("transfer-encoding") {
        return (head, rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            return (head, body);
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim().to_owned())
}

fn inflate(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let read = if bytes.starts_with(b"\x1f\x8b") {
        MultiGzDecoder::new(bytes).read_to_end(&mut out)
    } else {
        ZlibDecoder::new(bytes).read_to_end(&mut out)
    };
    // What does not unpack was packed by a layer fewer.
    if read.is_ok() { out } else { bytes.to_vec() }
}

/// Fails unless there is a row for each record that was accepted, as it was sent, and none besides.
fn assert_as_sent(rows: &[StoredRow], sent: &[Sent], accepted: usize) {
    assert_eq!(rows.len(), accepted, "rows for the accepted records");
    let mut left: Vec<_> = sent.iter().collect();
    let strange: Vec<_> = rows
        .iter()
        .filter(|row| {
            let at = left.iter().position(|sent| is_stored_as(&sent.record, row));
            at.map(|at| left.remove(at)).is_none()
        })
        .collect();
    assert!(
        strange.is_empty(),
        "{} rows that nobody sent so: {:.2000}",
        strange.len(),
        format!("{strange:?}")
    );
    let missing: Vec<_> = left
        .iter()
        .filter(|sent| sent.is_due)
        .map(|sent| &sent.request)
        .collect();
    assert!(missing.is_empty(), "not stored as sent: {missing:?}");
}

/// Tells whether a record as it was sent is this row.
fn is_stored_as(record: &Value, row: &StoredRow) -> bool {
    let text = |field: &str| record[field].as_str();
    let occurred_at = text("occurred_at").map_or(Some(row.received_at), |at| {
        let moment = OffsetDateTime::parse(at, &Rfc3339).ok()?;
        i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000)).ok()
    });
    let attributes = match &record["attributes"] {
        Value::Null => Value::Object(Map::new()),
        attributes => attributes.clone(),
    };
    let only_texts = ["id", "severity", "source", "occurred_at"]
        .iter()
        .all(|field| record[field].is_null() || record[field].is_string());
    only_texts
        && text("body").is_some_and(|body| body.replace('\0', "\u{fffd}") == row.body)
        && text("source").unwrap_or("default") == row.source
        && severity_number(text("severity").unwrap_or("info")) == Some(row.severity)
        && text("id").is_none_or(|id| id.eq_ignore_ascii_case(&row.id.to_string()))
        && occurred_at == Some(row.occurred_at)
        && same_value(&warren_e2e::generate::stored_value(attributes), &row.attributes)
}

/// Compares what two stores hold, but for the ids and times that each run makes itself.
fn assert_same_rows(one: Vec<StoredRow>, other: Vec<StoredRow>) {
    let (one_count, other_count) = (one.len(), other.len());
    let mut left = other;
    let missing: Vec<_> = one
        .into_iter()
        .filter(|row| {
            let same = |other: &StoredRow| {
                (&row.body, &row.source, row.severity) == (&other.body, &other.source, other.severity)
                    && same_value(&row.attributes, &other.attributes)
                    && (row.occurred_at == other.occurred_at
                        || (row.occurred_at == row.received_at && other.occurred_at == other.received_at))
            };
            let at = left.iter().position(same);
            at.map(|at| left.swap_remove(at)).is_none()
        })
        .collect();
    assert!(
        missing.is_empty() && left.is_empty(),
        "{one_count} and {other_count} rows; only in one: {missing:?}; only in the other: {left:?}"
    );
}
