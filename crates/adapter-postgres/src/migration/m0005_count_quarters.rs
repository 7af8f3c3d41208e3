//! Counts by quarter of an hour beside those by minute.

use super::script::Script;

/// A day has a fifteenth of the rows to sum up, and a search can leave a year behind that has nothing of what it is after.
/// Only the maintenance writes them, when it folds what was appended, so that no writer pays for them. A round of an older
/// program, which knows nothing of them, is waited for; none begins once this is done.
const UP: &str = "
create table message_counts_quarters (
    quarter timestamptz not null,
    severity smallint not null,
    source text not null,
    count bigint not null,
    primary key (quarter, severity, source)
);

select pg_advisory_xact_lock(33602666401984002);

insert into message_counts_quarters (quarter, severity, source, count)
    select to_timestamp(floor(date_part('epoch', minute) / 900) * 900), severity, source, sum(count)
    from message_counts_folded group by 1, 2, 3;

comment on table message_counts_quarters is
    'What message_counts_folded has, summed up by quarters of an hour.';
";

const DOWN: &str = "drop table message_counts_quarters;";

pub(super) const MIGRATION: Script = Script {
    name: "m0005_count_quarters",
    up: UP,
    down: DOWN,
};
