//! The way of messages in numbers: accepted, in the queue, stored, or dead, and how fast.
//!
//! [`Flow`] makes a [`FlowReport`] of what programs count ([`Page`]); where that is to be had is a [`CounterSource`]'s to
//! know: in one process its own counters, else those of several programs.

mod backlog;
mod means;
mod meter;
mod page;
mod report;
mod source;

pub use backlog::Backlog;
pub use meter::Flow;
pub use page::Page;
pub use report::{Accepted, Dead, FlowReport, InFlight, Missing, Queued, StageName, Stages, Stored};
pub use source::{CounterSource, Counters, Counting, Recent, Silent};

pub(crate) use means::{Means, counts};
pub(crate) use source::FRESH;
