//! Messages in partitions by day, and the counts beside them.

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

/// Written as SQL, because sea-query knows no partitions.
///
/// The id is the partition key, so that the primary key stays the id alone and holds over all partitions. Fixed-width
/// columns come first and so need no padding. `attributes` is `{}` rather than null when there are none, so that a
/// condition on them is true or false, never unknown.
///
/// One index beside the primary key, over the few rows people search by severity: the newest of a common severity
/// are found soon enough by walking the primary key backwards. In the project's measurements this one costs the writer
/// 3 % more WAL and 10 MB a million rows, the same over every severity 17 % and 73 MB. What a text index on the body costs
/// is printed by `cargo xtask bench indexes`.
///
/// `message_count_deltas` is filled and emptied all the time: it is vacuumed by number of rows, not by share.
const UP: &str = "
create table messages (
    id uuid primary key,
    occurred_at timestamptz not null,
    received_at timestamptz not null,
    stored_at timestamptz not null default now(),
    severity smallint not null,
    source text not null,
    body text not null,
    attributes jsonb not null default '{}'
) partition by range (id);

create index messages_severity_id on messages (severity, id) where severity >= 17;

create table messages_default partition of messages default;

comment on table messages is
    'One row a message. Partitioned by UTC day through the id, whose first 48 bits are milliseconds since 1970.';
comment on column messages.severity is
    'The OpenTelemetry severity number: 5 debug, 9 info, 13 warning, 17 error, 21 critical.';

create function message_minute(id uuid) returns timestamptz
    language sql immutable strict parallel safe
    as $$
        select to_timestamp(
            ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 60000 * 60
        )
    $$;

comment on function message_minute(uuid) is 'The start of the minute that the id of a message carries.';

create table message_counts_folded (
    minute timestamptz not null,
    severity smallint not null,
    source text not null,
    count bigint not null,
    primary key (minute, severity, source)
);

create table message_count_deltas (
    minute timestamptz not null,
    severity smallint not null,
    source text not null,
    count bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);

create view message_counts as
    select minute, severity, source, sum(count)::bigint as count
    from (
        select minute, severity, source, count from message_counts_folded
        union all
        select minute, severity, source, count from message_count_deltas
    ) as parts
    group by minute, severity, source;

comment on view message_counts is
    'Messages by the minute in their id, severity and source: what is folded and what is appended since.';
";

const DOWN: &str = "
drop view message_counts;
drop table message_count_deltas, message_counts_folded, messages;
drop function message_minute(uuid);
";

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0001_messages"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        #[cfg(not(feature = "planted-bugs"))]
        let up = UP;
        #[cfg(feature = "planted-bugs")]
        let up = &match warren_planted::planted(warren_planted::Bug::NoUniqueKey) {
            true => UP.replace("id uuid primary key", "id uuid not null"),
            false => UP.to_owned(),
        };
        manager.get_connection().execute_unprepared(up).await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await?;
        Ok(())
    }
}
