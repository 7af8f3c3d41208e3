//! The way in over HTTP, and out again: intake, messages found, the console, problem details, health, metrics,
//! documentation, and the server itself.
//!
//! A composition root makes [`Routes`], binds a [`Server`], and serves the one with the other:
//!
//! - what a client did wrong is a problem document (RFC 9457) that names the place and the remedy, made in one place
//!   (`problem`); the pipeline knows no status;
//! - every body is charged to a budget before it is read and until its messages are confirmed (`budget`), so memory is
//!   bounded whatever comes in;
//! - every wait of a connection ends (`connection`): silent, slow and greedy clients are cut off, and a refused one
//!   still gets to read its answer.

mod accept;
mod answer;
mod body;
mod budget;
mod config;
mod connection;
mod console;
mod dead_letters;
mod decode;
mod docs;
mod edge;
mod groups;
mod health;
mod hosts;
mod intake_address;
mod intake_routes;
mod messages;
mod metrics;
mod openapi;
mod pipeline;
mod pressure;
mod problem;
mod query;
mod reading;
mod records;
mod routes;
mod scan;
mod server;
mod sift;
mod tail;
mod trouble;

pub use config::HttpConfig;
pub use groups::GroupRoutes;
pub use health::Health;
pub use intake_address::IntakeAddress;
pub use intake_routes::IntakeRoutes;
pub use messages::QueryRoutes;
pub use metrics::describe_metrics;
pub use routes::Routes;
pub use server::{BindError, Drained, Server};
pub use tail::TailRoutes;
