//! The tokens of keyed records.

use super::script::Script;

/// Not partitioned: a token must be unique over all days, and has no time in it.
///
/// The primary key begins with the request, so that the tokens of one request lie together and those of a request can be
/// found. Rows are never changed, and go in the order they came.
const UP: &str = "
create table idempotency_keys (
    request bigint not null,
    token uuid not null,
    digest bigint not null,
    message uuid not null,
    received_at timestamptz not null,
    stored_at timestamptz not null default now(),
    primary key (request, token) include (digest)
) with (autovacuum_vacuum_scale_factor = 0.05);

create index idempotency_keys_stored_at on idempotency_keys (stored_at);

comment on table idempotency_keys is
    'One row a message that came under an Idempotency-Key, for as long as postgres.idempotency_keep says.';
comment on column idempotency_keys.token is
    'From the key, the content, and how many equal records came before it in the request: the same in every repeat.';
comment on column idempotency_keys.digest is
    'From all tokens of the request; two of them under one request are two contents under one key.';
";

const DOWN: &str = "drop table idempotency_keys";

pub(super) const MIGRATION: Script = Script {
    name: "m0003_idempotency",
    up: UP,
    down: DOWN,
};
