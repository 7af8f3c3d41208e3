//! The messages, and their counts by minute.

use sea_orm_migration::prelude::*;

use super::{STRICT, STRICT_BY_KEY};

pub(super) struct Step;

impl MigrationName for Step {
    fn name(&self) -> &str {
        "m0001_store"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Step {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        schema.create_table(messages()).await?;
        schema.create_table(message_counts()).await
    }
}

fn column(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).not_null().take()
}

/// The same columns as in PostgreSQL; times in microseconds since 1970.
///
/// A rowid table beside an index on the id: with the rows in the key's own b-tree (`without rowid`) a body of more
/// than a kilobyte would leave its row, and the tree that every insert searches would be ten times as large. Both
/// took the same 100–200 thousand rows of 300 bytes a second.
fn messages() -> TableCreateStatement {
    Table::create()
        .table("messages")
        .col(column("id").blob().primary_key())
        .col(column("severity").integer())
        .col(column("source").text())
        .col(column("body").text())
        .col(column("attributes").text())
        .col(column("occurred_at").integer())
        .col(column("received_at").integer())
        .col(column("stored_at").integer())
        .extra(STRICT)
        .take()
}

/// How many messages whose id was made in a minute are stored; `minute` counts minutes since 1970.
fn message_counts() -> TableCreateStatement {
    Table::create()
        .table("message_counts")
        .col(column("minute").integer())
        .col(column("severity").integer())
        .col(column("source").text())
        .col(column("messages").integer())
        .primary_key(Index::create().col("minute").col("severity").col("source"))
        .extra(STRICT_BY_KEY)
        .take()
}
