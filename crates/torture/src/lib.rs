//! Proves "nothing lost, nothing twice": the real programs, real servers, faults from a seed, and an own ledger.
//!
//! Everything that is random comes from one seed and is written down before the start: which fault, when, on what, for
//! how long. So a run that failed can be run again. The processes are real, hence the interleaving may differ; the
//! plan does not.
//!
//! ```text
//! clients ─P1→ ingest-api ×2 ─P2→ RabbitMQ ←P3─ store-worker ×2 ─P4→ PostgreSQL
//! ```
//!
//! Each P is a proxy of the harness, one for each instance. The harness itself looks at RabbitMQ and PostgreSQL
//! directly, and never through the product.

pub mod bed;
pub mod books;
pub mod broker;
pub mod clients;
pub mod database;
pub mod embedded;
pub mod fault;
pub mod inject;
pub mod ledger;
pub mod messages;
pub mod plan;
pub mod proxy;
pub mod publisher;
pub mod report;
pub mod resources;
pub mod run;
pub mod syscalls;
pub mod teeth;
