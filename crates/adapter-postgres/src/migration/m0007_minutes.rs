//! How many messages each minute has, and how many its filters are of.

use super::script::Script;

/// A search for words reads one row of a minute instead of one of each of its sources, beside the filters that it asks. And what is due
/// shows itself: a minute whose filters are of as many messages as it has is not, so two that write the row at once cannot leave one
/// out that has changed.
///
/// Only the maintenance writes them, when it folds what was appended. A round of an older program is waited for; one that begins
/// later looks at the schema once it has the lock, and the folding of the release before, which does not, finds no table of
/// due minutes.
const UP: &str = "
select pg_advisory_xact_lock(33602666401984002);

create table message_minutes (
    minute timestamptz primary key,
    stored bigint not null,
    indexed bigint
);

insert into message_minutes (minute, stored, indexed)
    select minute, sum(count),
        case when not exists (select from message_words_due as due where due.minute = counts.minute)
            then (select max(stored) from message_words as words where words.minute = counts.minute)
        end
    from message_counts_minutes as counts group by minute;

create index message_minutes_due on message_minutes (minute) where indexed is distinct from stored;

drop table message_words_due;

comment on table message_minutes is
    'How many messages each minute has by message_counts_minutes, and of how many its filters in message_words are.';
comment on column message_minutes.indexed is
    'Null when the filters have not been made; other than stored when they are out of date.';
";

const DOWN: &str = "
create table message_words_due (minute timestamptz primary key);
insert into message_words_due (minute) select minute from message_minutes where indexed is distinct from stored;
drop table message_minutes;
";

pub(super) const MIGRATION: Script = Script {
    name: "m0007_minutes",
    up: UP,
    down: DOWN,
};
