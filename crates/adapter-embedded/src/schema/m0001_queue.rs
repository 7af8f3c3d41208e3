//! The log, its readers, and what nobody could store.

use sea_orm_migration::prelude::*;
use warren_domain::Severity;

use super::{STRICT, STRICT_BY_KEY};
use crate::queue::STORE_GROUP;

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0001_queue"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        schema.create_table(log()).await?;
        schema.create_table(log_totals()).await?;
        schema.create_table(groups()).await?;
        schema.create_table(dead_letters()).await?;
        let seed = schema.get_connection();
        for severity in Severity::ALL {
            let number = severity.number();
            seed.execute_unprepared(&format!("insert into log_totals values ({number}, 0, 0)"))
                .await?;
        }
        let everything = Severity::ALL.map(Severity::as_str).join(",");
        seed.execute_unprepared(&format!(
            "insert into groups values ('{STORE_GROUP}', '{everything}', 0, 0, 0, 0, 0)"
        ))
        .await?;
        Ok(())
    }
}

fn integer(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).integer().not_null().take()
}

fn text(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).text().not_null().take()
}

/// One row holds messages of one severity, one JSON object a line.
fn log() -> TableCreateStatement {
    Table::create()
        .table("log")
        .col(integer("seq").primary_key())
        .col(integer("severity"))
        .col(integer("messages"))
        .col(integer("received_at"))
        .col(text("traces"))
        .col(ColumnDef::new("lines").blob().not_null())
        .extra(STRICT)
        .take()
}

/// What was ever appended to the log.
fn log_totals() -> TableCreateStatement {
    Table::create()
        .table("log_totals")
        .col(integer("severity").primary_key())
        .col(integer("messages"))
        .col(integer("bytes"))
        .extra(STRICT)
        .take()
}

/// A cursor for each consumer group: every row up to it is settled.
fn groups() -> TableCreateStatement {
    Table::create()
        .table("groups")
        .col(text("name").primary_key())
        .col(text("severities"))
        .col(integer("cursor"))
        .col(integer("passed_messages"))
        .col(integer("passed_bytes"))
        // Rows up to here were delivered at least once; negative while that is not known exactly.
        .col(integer("delivered_to"))
        .col(integer("attended_at"))
        .extra(STRICT_BY_KEY)
        .take()
}

fn dead_letters() -> TableCreateStatement {
    Table::create()
        .table("dead_letters")
        .col(integer("id").primary_key().auto_increment())
        .col(text("group"))
        .col(integer("seq"))
        .col(integer("place"))
        .col(text("reason"))
        .col(text("detail"))
        .col(integer("attempt"))
        .col(integer("first_seen"))
        .col(integer("died_at"))
        .col(integer("severity"))
        .col(ColumnDef::new("source").text())
        .col(ColumnDef::new("line").blob().not_null())
        // A row that comes again after a crash, and is refused again, is one dead letter.
        .index(
            Index::create()
                .unique()
                .name("dead_letters_once")
                .col("group")
                .col("seq")
                .col("place"),
        )
        .extra(STRICT)
        .take()
}
