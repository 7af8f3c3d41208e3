//! Dead letters: getting them where people can work with them, and the work itself.
//!
//! - [`KeepLoop`] moves what a broker holds into the place of the dead letters, and acknowledges after that.
//! - [`DeadLetterJobs`] redrives and purges, one job at a time, page by page, with progress, until it is cancelled.
//! - [`watch_dead_letters`] counts what is there, for the metrics.

mod job;
mod jobs;
mod keep_loop;
pub(crate) mod metrics;
mod redrive;
mod watch;

pub use job::{JobAction, JobReport, JobState};
pub use jobs::{Begun, DeadLetterJobs};
pub use keep_loop::KeepLoop;
pub use watch::watch_dead_letters;
