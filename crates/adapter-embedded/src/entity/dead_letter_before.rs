//! What nobody could store, as it was kept until `m0003_dead_letters`; only that step reads it.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "dead_letters_before")]
pub(crate) struct Model {
    #[sea_orm(primary_key)]
    pub(crate) id: i64,
    pub(crate) group: String,
    pub(crate) seq: i64,
    pub(crate) place: i64,
    pub(crate) reason: String,
    pub(crate) detail: String,
    pub(crate) attempt: i64,
    pub(crate) first_seen: i64,
    pub(crate) died_at: i64,
    pub(crate) severity: i16,
    pub(crate) source: Option<String>,
    pub(crate) line: Vec<u8>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
