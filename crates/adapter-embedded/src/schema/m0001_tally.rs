//! The counts, and the ids that were counted last.

use sea_orm_migration::prelude::*;
use warren_domain::Severity;

use super::STRICT;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0001_tally"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        schema.create_table(totals()).await?;
        schema.create_table(counted()).await?;
        let seed = schema.get_connection();
        for severity in Severity::ALL {
            let number = severity.number();
            seed.execute_unprepared(&format!("insert into totals values ({number}, 0, 0, null)"))
                .await?;
        }
        Ok(())
    }
}

fn integer(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).integer().not_null().take()
}

/// What was ever counted, and the times in microseconds since 1970.
fn totals() -> TableCreateStatement {
    Table::create()
        .table("totals")
        .col(integer("severity").primary_key())
        .col(integer("messages"))
        .col(integer("duplicates"))
        .col(ColumnDef::new("last_counted").integer())
        .extra(STRICT)
        .take()
}

/// The ids of one commit, 16 bytes each, in the order in which they were counted; `last` is the number of the last of
/// them, counted from the group's first message.
fn counted() -> TableCreateStatement {
    Table::create()
        .table("counted")
        .col(integer("last").primary_key())
        .col(ColumnDef::new("ids").blob().not_null())
        .extra(STRICT)
        .take()
}
