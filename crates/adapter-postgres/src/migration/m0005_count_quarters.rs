//! Counts by quarter of an hour beside those by minute.

use super::script::Script;

/// A day has a fifteenth of the rows to sum up, and a search can leave a year behind that has nothing of what it is after.
/// Only the maintenance writes them, when it folds what was appended, so that no writer pays for them.
///
/// A round of an older program, which knows nothing of them, is waited for. One that has looked at the schema before and
/// begins to fold after does not find the table that it folds into: its name is another one from now on.
const UP: &str = "
select pg_advisory_xact_lock(33602666401984002);

alter table message_counts_folded rename to message_counts_minutes;
alter index message_counts_folded_pkey rename to message_counts_minutes_pkey;

create table message_counts_quarters (
    quarter timestamptz not null,
    severity smallint not null,
    source text not null,
    count bigint not null,
    primary key (quarter, severity, source)
);

insert into message_counts_quarters (quarter, severity, source, count)
    select to_timestamp(floor(date_part('epoch', minute) / 900) * 900), severity, source, sum(count)
    from message_counts_minutes group by 1, 2, 3;

comment on table message_counts_quarters is
    'What message_counts_minutes has, summed up by quarters of an hour.';
";

const DOWN: &str = "
drop table message_counts_quarters;
alter index message_counts_minutes_pkey rename to message_counts_folded_pkey;
alter table message_counts_minutes rename to message_counts_folded;
";

pub(super) const MIGRATION: Script = Script {
    name: "m0005_count_quarters",
    up: UP,
    down: DOWN,
};
