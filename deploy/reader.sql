-- The role that query-api reads with: it finds messages, looks at dead letters and removes those that are redriven or
-- purged, and can do nothing else (docs/configuration.md, "Rights"). Run again it gives the role its password and rights anew.
\set ON_ERROR_STOP on
\getenv password READER_PASSWORD
select 'create role reader login' where not exists (select from pg_roles where rolname = 'reader') \gexec
alter role reader password :'password';
grant select on warren_migrations, messages, messages_default, message_minutes, message_counts_minutes, message_counts_quarters, message_count_deltas, message_words to reader;
grant select on dead_letters to reader;
grant delete on dead_letters to reader;
