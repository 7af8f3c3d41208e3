//! Counting what a consumer group is delivered, and telling it.
//!
//! - [`TallyLoop`]: deliveries → what the group selects → its book → acknowledgement.
//! - [`GroupReport`]: what a group has counted at a moment, as one line of JSON; [`table`]: several of them for people.

mod activity;
mod config;
mod counting;
mod health;
pub(crate) mod metrics;
mod rates;
mod report;
mod table;
mod tally_loop;

pub use activity::Until;
pub use config::TallyConfig;
pub use health::TallyHealth;
pub use report::{GroupReport, GroupState, InvalidReport, ReportedLag};
pub use table::table;
pub use tally_loop::{TallyLoop, TallyParts};
