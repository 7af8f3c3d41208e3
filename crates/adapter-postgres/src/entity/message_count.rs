//! A row of the view `message_counts`.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "message_counts")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub minute: TimeDateTimeWithTimeZone,
    #[sea_orm(primary_key, auto_increment = false)]
    pub severity: i16,
    #[sea_orm(primary_key, auto_increment = false)]
    pub source: String,
    pub count: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
