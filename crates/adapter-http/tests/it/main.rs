//! The HTTP server over real connections, with a scripted publisher behind it.
#![allow(missing_docs, clippy::unwrap_used)]

mod console;
mod dead_letters;
mod documentation;
mod drain;
mod gate;
mod health;
mod hostile;
mod hostile_requests;
mod intake;
mod messages;
mod overload;
mod reading;
mod server;
mod slow;
mod tail;
mod wire;
