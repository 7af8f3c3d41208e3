//! What bodies have in them, for searches for words.

use super::script::Script;

/// `words` says what the rows mean. A filter is read a few bytes at a time: stored outside of its row, if it is large, and never
/// compressed, so that PostgreSQL fetches the one piece that these are in.
///
/// What is stored already is due, the minutes that have nothing included, which cost next to nothing. A round of an older program,
/// which does not note what it folds, is waited for.
const UP: &str = "
select pg_advisory_xact_lock(33602666401984002);

create table message_words (
    minute timestamptz not null,
    part integer not null,
    stored bigint not null,
    first_id uuid not null,
    last_id uuid not null,
    filter bytea not null,
    primary key (minute, part)
);

alter table message_words alter column filter set storage external;

create table message_words_due (minute timestamptz primary key);

insert into message_words_due (minute)
    select quarter + n * interval '1 minute'
    from (select distinct quarter from message_counts_quarters) as quarters, generate_series(0, 14) as n;

comment on table message_words is
    'Bloom filters over the bodies of a minute, in parts; right for as long as the minute has as many messages as it had.';
comment on column message_words.stored is
    'How many messages the whole minute had when its filters were made, by message_counts.';
comment on table message_words_due is
    'Minutes that have got messages since their filters were made, or have none yet.';
";

const DOWN: &str = "drop table message_words_due, message_words;";

pub(super) const MIGRATION: Script = Script {
    name: "m0006_words",
    up: UP,
    down: DOWN,
};
