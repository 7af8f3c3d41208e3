//! How many rows were ever appended, and how many of them each group has passed: its lag in packets is a subtraction.

use sea_orm_migration::prelude::*;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0002_packets"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        let file = schema.get_connection();
        for statement in [
            "alter table log_totals add column packets integer not null default 0",
            "alter table groups add column passed_packets integer not null default 0",
            // Rows that are gone count nowhere: only the difference is ever of interest.
            "update log_totals set packets = (select count(*) from log where log.severity = log_totals.severity)",
            "update groups set passed_packets = (select count(*) from log where seq <= cursor and instr(severities, \
             case log.severity when 5 then 'debug' when 9 then 'info' when 13 then 'warning' when 17 then 'error' \
             else 'critical' end))",
        ] {
            file.execute_unprepared(statement).await?;
        }
        Ok(())
    }
}
