//! What a binary sees of this crate.
#![allow(missing_docs, clippy::unwrap_used)]

mod panics;
mod settings;
mod signals;
