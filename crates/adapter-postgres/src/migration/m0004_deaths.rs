//! The deaths that a letter has died before its last one.

use super::script::Script;

/// A call that keeps several deaths of one letter may be repeated: with the last death alone, each of them would look
/// like another one. Nothing but the statement that keeps letters reads it, so it is no part of the entity.
const UP: &str = "
alter table dead_letters add column deaths uuid[] not null default '{}';

comment on column dead_letters.deaths is
    'The deaths before the last one, the newest first, 127 at most: none of them counts again.';
";

const DOWN: &str = "alter table dead_letters drop column deaths;";

pub(super) const MIGRATION: Script = Script {
    name: "m0004_deaths",
    up: UP,
    down: DOWN,
};
