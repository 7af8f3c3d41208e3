#![allow(missing_docs, clippy::unwrap_used)]

mod intake;
mod store_loop;
