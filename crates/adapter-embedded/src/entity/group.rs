//! The cursor of a consumer group.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "groups")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) name: String,
    pub(crate) severities: String,
    pub(crate) cursor: i64,
    pub(crate) passed_messages: i64,
    pub(crate) passed_bytes: i64,
    pub(crate) delivered_to: i64,
    pub(crate) attended_at: i64,
    pub(crate) passed_packets: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
