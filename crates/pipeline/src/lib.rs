//! What runs: the intake, the store loop, the tally loop and the maintenance of the store.
//!
//! Everything here is written against the ports of `warren_domain` and knows no product. What it promises:
//!
//! - [`Intake`] says yes only after [`MessagePublisher::publish`](warren_domain::ports::MessagePublisher::publish)
//!   has, and goes on waiting for the broker when the client has gone away;
//! - a [`Spool`] gives up what was put by only after the broker has confirmed it;
//! - [`StoreLoop`] acknowledges a delivery only after every message of it is stored or durably a dead letter;
//! - [`tally::TallyLoop`] acknowledges a delivery only after its messages are in the group's book;
//! - [`dead_letters::DeadLetterJobs`] removes a dead letter only after the broker has its message again;
//! - [`tail::Hub`] says where a message is missing that a reader of its tail should have got;
//! - nothing here holds more than its settings say, and every wait ends.

mod backlog;
mod breaker;
pub mod config;
mod consume_loop;
pub mod dead_letters;
pub mod flow;
mod gather;
mod health;
mod intake;
mod maintenance;
mod metrics;
mod outage;
mod recent_keys;
mod retry;
mod spool;
mod store_loop;
pub mod tail;
pub mod tally;
mod unabandoned;
mod write;

pub use backlog::watch_backlog;
pub use config::{IntakeConfig, MaintenanceConfig, WorkerConfig};
pub use health::WorkerHealth;
pub use intake::{Intake, Prepared, Receipt};
pub use maintenance::run_maintenance;
pub use metrics::describe_metrics;
pub use retry::Backoff;
pub use spool::{Spool, SpoolHealth, SpoolPorts};
pub use store_loop::StoreLoop;
