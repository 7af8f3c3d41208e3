//! What nobody could store.

use super::script::Script;

/// The bytes of a letter are of any kind, so they are `bytea`; every text beside them was made fit for `text`.
///
/// `revision` and `death` tell states of a letter apart: the first when one is removed, the second when one is kept
/// again. The index is the order letters are listed in; they are few, and so the other conditions have none.
const UP: &str = "
create table dead_letters (
    id uuid primary key,
    revision uuid not null,
    death uuid not null,
    first_at timestamptz not null,
    last_at timestamptz not null,
    attempts bigint not null,
    severity smallint,
    reason text not null,
    detail text not null,
    exchange text not null,
    routing_key text not null,
    queue text not null,
    source text,
    message_type text,
    content_encoding text,
    content bytea not null
);

create index dead_letters_last on dead_letters (last_at desc, id desc);

comment on table dead_letters is
    'What could not be stored, until somebody redrives or purges it. One row a message; other lines one row each.';
comment on column dead_letters.severity is
    'The OpenTelemetry severity number: 5 debug, 9 info, 13 warning, 17 error, 21 critical; null where unknown.';
comment on column dead_letters.content is
    'The original bytes.';
";

const DOWN: &str = "drop table dead_letters;";

pub(super) const MIGRATION: Script = Script {
    name: "m0002_dead_letters",
    up: UP,
    down: DOWN,
};
