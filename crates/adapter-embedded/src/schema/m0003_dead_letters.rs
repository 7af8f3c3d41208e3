//! Dead letters as people work with them: one row a letter however often it dies, told apart by what it is.

use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, Statement};
use sea_orm_migration::prelude::*;

use super::STRICT;
use crate::entity::{dead_letter, dead_letter_before};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0003_dead_letters"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        let file = schema.get_connection();
        file.execute_unprepared("alter table dead_letters rename to dead_letters_before")
            .await?;
        file.execute_unprepared(&format!(
            "create table dead_letters (
                id blob not null primary key,
                revision blob not null,
                death blob not null,
                first_at integer not null,
                last_at integer not null,
                attempts integer not null,
                severity integer,
                reason text not null,
                detail text not null,
                exchange text not null,
                routing_key text not null,
                queue text not null,
                source text,
                message_type text,
                content_encoding text,
                content blob not null
            ) {STRICT}"
        ))
        .await?;
        file.execute_unprepared("create index dead_letters_last on dead_letters (last_at desc, id desc)")
            .await?;
        take_over(schema).await?;
        file.execute_unprepared("drop table dead_letters_before").await?;
        Ok(())
    }
}

/// Makes letters of what was kept before: a line that several groups have given up is one letter of several deaths.
async fn take_over(schema: &SchemaManager<'_>) -> Result<(), DbErr> {
    let file = schema.get_connection();
    let mut after = 0;
    loop {
        let row = dead_letter_before::Entity::find()
            .filter(dead_letter_before::Column::Id.gt(after))
            .order_by_asc(dead_letter_before::Column::Id)
            .one(file)
            .await?;
        let Some(row) = row else { return Ok(()) };
        after = row.id;
        let row = dead_letter::Model::from(row);
        let statement =
            Statement::from_sql_and_values(file.get_database_backend(), dead_letter::KEEP, row.into_values());
        file.execute_raw(statement).await?;
    }
}
