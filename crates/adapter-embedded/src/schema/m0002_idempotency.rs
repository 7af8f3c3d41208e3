//! The tokens of keyed records.

use sea_orm_migration::prelude::*;

use super::STRICT_BY_KEY;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0002_idempotency"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        let file = schema.get_connection();
        // The same columns as in PostgreSQL; times in microseconds since 1970.
        for statement in [
            format!(
                "create table idempotency_keys (request integer not null, token blob not null, \
                 digest integer not null, message blob not null, received_at integer not null, \
                 stored_at integer not null, primary key (request, token)) {STRICT_BY_KEY}"
            ),
            "create index idempotency_keys_stored_at on idempotency_keys (stored_at)".to_owned(),
        ] {
            file.execute_unprepared(&statement).await?;
        }
        Ok(())
    }
}
