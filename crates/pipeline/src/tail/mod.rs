//! Watching what is published now: one subscription for the whole process, any number of readers.
//!
//! A [`Hub`] listens while somebody reads, and keeps the last messages. A reader is no more than a place among them and
//! a filter, so a hundred readers cost no hundred copies, and one that stands still holds up nobody. A [`Cursor`] names
//! a place; whoever comes back with one goes on behind it. Where what is behind it is not kept any more, or was never heard here,
//! a [`TailStore`] tells it. Where something is missing, a [`Gap`] says so in its place. No more than so many messages a
//! second are read, and all readers share so many bytes a second, so that watching does not take the machine from those
//! who store.

mod budget;
mod catch_up;
mod config;
mod cursor;
mod hub;
mod kept;
mod mark;
pub(crate) mod metrics;
mod order;
mod reader;

pub use catch_up::TailStore;
pub use config::TailConfig;
pub use cursor::{Cursor, InvalidCursor};
pub use hub::{Hub, NotReading};
pub use kept::{Gap, GapReason, Heard};
pub use reader::{Reader, Told, Wanted, What};
