//! Tokens: a record that comes again under the key of its request is stored once, whatever its id.
//!
//! A transaction that stores keyed messages begins by claiming their tokens. Whoever claims one that another transaction
//! has claimed and not committed waits for it on the index, and then finds it taken or, when the other was undone, free.
//! So a token is taken exactly as long as its message is stored. Tokens are claimed in one order, and before the ids, so
//! that writers wait for each other in a line and not in a circle.

use std::borrow::Cow;
use std::collections::HashSet;

use tokio_postgres::types::ToSql;
use uuid::Uuid;
use warren_domain::{Idempotency, Message, MessageId, Timestamp};

use crate::error::Failure;
use crate::row::Moment;
use crate::session::WriteSession;

/// Claims tokens; returns each message whose token was free, and each of their contents whose key was known with another.
///
/// Asked once for each content and not for each message: a request has thousands of them, and one content. Two lists in
/// one and no join: PostgreSQL takes a few rows for granted and would compare each with each.
pub(crate) const CLAIM: &str = "\
    with claimed as (
        insert into idempotency_keys (request, token, digest, message, received_at)
        select * from unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::uuid[], $5::timestamptz[])
        on conflict (request, token) do nothing
        returning request, digest, message
    )
    select message, null::bigint, null::bigint from claimed
    union all
    select null::uuid, request, digest
    from (select distinct request, digest from claimed) as content
    where exists (
        select from idempotency_keys as known
        where known.request = content.request and known.digest <> content.digest
    )";

/// How many tokens one statement claims; see `unnest` for why there is a bound.
const MOST_TOKENS: usize = 2_000;

/// What a transaction has left to store once tokens are claimed.
#[derive(Debug)]
pub(crate) struct Claimed<'r, 'm> {
    /// In the order that was given.
    pub(crate) rows: Cow<'r, [&'m Message]>,
    /// How many were not claimed: their token was taken.
    pub(crate) repeated: u64,
    /// How many came under a key that was known with other content.
    pub(crate) conflicting: u64,
}

impl<'r, 'm> Claimed<'r, 'm> {
    /// Claims nothing.
    pub(crate) const fn nothing(rows: &'r [&'m Message]) -> Self {
        Self {
            rows: Cow::Borrowed(rows),
            repeated: 0,
            conflicting: 0,
        }
    }
}

/// Tells whether there is a token to claim.
pub(crate) fn are_in(rows: &[&Message]) -> bool {
    rows.iter().any(|message| message.idempotency.is_some())
}

/// Begins a transaction and claims the tokens of `rows`; returns what is left to store in it.
pub(crate) async fn begin<'r, 'm>(
    session: &WriteSession,
    rows: &'r [&'m Message],
) -> Result<Claimed<'r, 'm>, Failure> {
    let mut offers: Vec<_> = rows.iter().filter_map(|message| Offer::of(message)).collect();
    // Stable: of two with one token the first is offered first.
    offers.sort_by_key(|offer| (offer.idempotency.request, offer.idempotency.token));
    let (mut claimed, mut contents) = (HashSet::with_capacity(offers.len()), HashSet::new());
    for (part, offers) in offers.chunks(MOST_TOKENS).enumerate() {
        let begin = if part == 0 { "begin" } else { "" };
        for row in claim(session, begin, offers).await? {
            match row {
                Row::Claimed(id) => drop(claimed.insert(id)),
                Row::Conflicting { request, digest } => drop(contents.insert((request, digest))),
            }
        }
    }
    let left: Vec<_> = rows
        .iter()
        .copied()
        .filter(|message| message.idempotency.is_none() || claimed.contains(&message.id.as_uuid()))
        .collect();
    let new = left.iter().filter_map(|message| {
        let idempotency = message.idempotency?;
        let content = (idempotency.request, idempotency.digest);
        Some((idempotency, contents.contains(&content)))
    });
    Ok(Claimed {
        repeated: (rows.len() - left.len()) as u64,
        conflicting: Idempotency::conflicting(new),
        rows: Cow::Owned(left),
    })
}

/// Claims a token that is nobody's; for a look whether it could be done.
pub(crate) async fn rehearse(session: &WriteSession) -> Result<(), Failure> {
    let id = MessageId::generate();
    let offer = Offer {
        idempotency: Idempotency {
            token: *id.as_uuid().as_bytes(),
            request: 0,
            digest: 0,
        },
        id,
        received_at: Timestamp::now(),
    };
    claim(session, "begin", &[offer]).await?;
    session.run("rollback").await
}

/// A token that a message asks for.
struct Offer {
    idempotency: Idempotency,
    id: MessageId,
    received_at: Timestamp,
}

impl Offer {
    fn of(message: &Message) -> Option<Self> {
        Some(Self {
            idempotency: message.idempotency?,
            id: message.id,
            received_at: message.received_at,
        })
    }
}

/// What [`CLAIM`] returns.
enum Row {
    /// A message whose token was free.
    Claimed(Uuid),
    /// A content of such messages whose key was known with another one.
    Conflicting { request: u64, digest: u64 },
}

/// Claims what one statement takes, sent together with what begins the transaction.
async fn claim(session: &WriteSession, begin: &str, offers: &[Offer]) -> Result<Vec<Row>, Failure> {
    let requests: Vec<i64> = offers
        .iter()
        .map(|offer| offer.idempotency.request.cast_signed())
        .collect();
    let tokens: Vec<Uuid> = offers
        .iter()
        .map(|offer| Uuid::from_bytes(offer.idempotency.token))
        .collect();
    let digests: Vec<i64> = offers
        .iter()
        .map(|offer| offer.idempotency.digest.cast_signed())
        .collect();
    let ids: Vec<Uuid> = offers.iter().map(|offer| offer.id.as_uuid()).collect();
    let received: Vec<Moment> = offers.iter().map(|offer| Moment(offer.received_at)).collect();
    let parameters: [&(dyn ToSql + Sync); 5] = [&requests, &tokens, &digests, &ids, &received];
    let client = session.client();
    session
        .within(async {
            let (begun, claimed) = tokio::join!(
                client.batch_execute(begin),
                client.query(&session.statements().claim, &parameters),
            );
            begun?;
            claimed?
                .iter()
                .map(|row| {
                    Ok(match row.try_get(0)? {
                        Some(id) => Row::Claimed(id),
                        None => Row::Conflicting {
                            request: row.try_get::<_, i64>(1)?.cast_unsigned(),
                            digest: row.try_get::<_, i64>(2)?.cast_unsigned(),
                        },
                    })
                })
                .collect::<Result<_, Failure>>()
        })
        .await
}
