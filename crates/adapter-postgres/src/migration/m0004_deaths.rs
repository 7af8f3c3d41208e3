//! The deaths that a letter has died before its last one.

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

/// A call that keeps several deaths of one letter may be repeated: with the last death alone, each of them would look
/// like another one. Nothing but the statement that keeps letters reads it, so it is no part of the entity.
const UP: &str = "
alter table dead_letters add column deaths uuid[] not null default '{}';

comment on column dead_letters.deaths is
    'The deaths before the last one, the newest first, 127 at most: none of them counts again.';
";

const DOWN: &str = "alter table dead_letters drop column deaths;";

pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0004_deaths"
    }
}

#[async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(UP).await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(DOWN).await?;
        Ok(())
    }
}
