//! The tables as sea-orm sees them.

pub(crate) mod dead_letter;
pub(crate) mod dead_letter_before;
pub(crate) mod group;
pub(crate) mod log_total;
pub(crate) mod message;
