//! Counting what a consumer group is delivered, and telling it.
//!
//! - [`TallyLoop`]: deliveries → what the group selects → its book → acknowledgement.
//! - [`GroupReport`]: what a group has counted at a moment, as one line of JSON; [`table`]: several of them for people.
//! - [`GroupWatch`]: what is known of groups whose members are other processes.

mod activity;
mod config;
mod counting;
mod health;
pub(crate) mod metrics;
mod rates;
mod report;
mod table;
mod tally_loop;
mod watch;

pub use activity::Until;
pub use config::TallyConfig;
pub use health::TallyHealth;
pub(crate) use report::tenths;
pub use report::{GroupReport, GroupState, InvalidReport, ReportedLag};
pub use table::{table, watched_table};
pub use tally_loop::{TallyLoop, TallyParts};
pub use watch::{GroupWatch, WatchReport, WatchedGroup, WatchedState};
