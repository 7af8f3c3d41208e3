//! All consumer groups, as the file remembers them.

use std::collections::HashMap;
use std::sync::Arc;

use sea_orm::EntityTrait;
use sea_orm::sqlx::{self, Row};
use warren_domain::{Selection, Severity, SeveritySet};

use super::STORE_GROUP;
use super::group::{Group, Position};
use super::head::{Amount, Head};
use crate::database::Database;
use crate::entity::{group, log_total};
use crate::error::from_orm;

/// All consumer groups.
#[derive(Debug)]
pub(crate) struct Groups {
    store: Arc<Group>,
    named: HashMap<String, Arc<Group>>,
}

impl Groups {
    pub(crate) const fn store(&self) -> &Arc<Group> {
        &self.store
    }

    pub(crate) fn named(&self) -> impl Iterator<Item = &Arc<Group>> {
        self.named.values()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Group>> {
        std::iter::once(&self.store).chain(self.named.values())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Group>> {
        if name == STORE_GROUP {
            Some(&self.store)
        } else {
            self.named.get(name)
        }
    }

    pub(crate) fn insert(&mut self, group: Arc<Group>) {
        self.named.insert(group.name().to_owned(), group);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.named.remove(name);
    }
}

/// Reads where the log and its groups stand.
pub(crate) async fn load(database: &Database) -> Result<(Head, Groups), sqlx::Error> {
    let orm = |error| sqlx::Error::AnyDriverError(from_orm(error).into());
    let mut offered = [Amount::default(); 5];
    for total in log_total::Entity::find()
        .all(database.readers())
        .await
        .map_err(orm)?
    {
        let severity = u8::try_from(total.severity).ok().and_then(Severity::from_number);
        if let Some(severity) = severity {
            offered[severity.index()] = Amount {
                messages: total.messages.unsigned_abs(),
                bytes: total.bytes.unsigned_abs(),
                packets: total.packets.unsigned_abs(),
            };
        }
    }
    // The log may be empty, but rows are dropped only once the way into the store has passed them.
    let last: i64 =
        sqlx::query("select max(ifnull((select max(seq) from log), 0), (select max(cursor) from groups))")
            .fetch_one(database.read_pool())
            .await?
            .try_get(0)?;
    let head = Head::at(last, offered);

    let mut store = None;
    let mut named = HashMap::new();
    for row in group::Entity::find().all(database.readers()).await.map_err(orm)? {
        let position = Position {
            cursor: row.cursor,
            passed: Amount {
                messages: row.passed_messages.unsigned_abs(),
                bytes: row.passed_bytes.unsigned_abs(),
                packets: row.passed_packets.unsigned_abs(),
            },
            // Unknown after a crash: then any row may have been out.
            delivered_to: if row.delivered_to < 0 {
                last
            } else {
                row.delivered_to
            },
        };
        let group = Group::new(
            row.name.clone(),
            // Patterns of sources are no part of where a group stands: whoever joins brings them.
            Selection::of(read_severities(&row.severities)),
            position,
            row.attended_at,
        );
        if row.name == STORE_GROUP {
            store = Some(Arc::new(group));
        } else {
            named.insert(row.name, Arc::new(group));
        }
    }
    let store = store.ok_or(sqlx::Error::RowNotFound)?;
    Ok((head, Groups { store, named }))
}

pub(crate) fn write_severities(severities: SeveritySet) -> String {
    let names: Vec<_> = severities.iter().map(Severity::as_str).collect();
    names.join(",")
}

fn read_severities(text: &str) -> SeveritySet {
    text.split(',')
        .filter_map(|name| name.parse::<Severity>().ok())
        .collect()
}
