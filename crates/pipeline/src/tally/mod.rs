//! Counting what a consumer group is delivered, and telling it.
//!
//! - [`TallyLoop`]: deliveries → what the group selects → its book → acknowledgement.
//! - [`GroupReport`]: what a group has counted at a moment, as one line of JSON; [`table`]: several of them for people.

mod report;
mod table;

pub use report::{GroupReport, GroupState, InvalidReport, ReportedLag};
pub use table::table;
