//! The tables as sea-orm sees them.

// sea-orm's derive makes `Entity` public, and what it names has to be as well.
#![allow(unreachable_pub)]

pub(crate) mod dead_letter;
pub(crate) mod message;
