//! Finds or starts the RabbitMQ and PostgreSQL that tests need.
//!
//! [`find_or_start`] takes the first that can really be used: the server an environment variable names, one on this
//! machine, a private one from installed programs, and at last one that it installs where it may.
//! [`PrivateRabbit`] and [`PrivatePostgres`] are for tests that kill and restart their server, which nobody may do to
//! one that others use.

mod address;
mod amqp;
mod find;
mod group;
mod pg;
mod postgres;
mod programs;
mod rabbit;

pub use find::{AMQP_DEFAULT, AMQP_VARIABLE, POSTGRES_DEFAULT, POSTGRES_VARIABLE, Servers, find_or_start};
pub use postgres::PrivatePostgres;
pub use rabbit::PrivateRabbit;
