//! Finds or starts the RabbitMQ and PostgreSQL that tests need, a Python with a client for RabbitMQ, and a browser.
//!
//! [`find`] takes the first that can really be used: the server an environment variable names, one on this
//! machine, a private one from installed programs, and at last one that it installs where it may.
//! [`PrivateRabbit`] and [`PrivatePostgres`] are for tests that kill and restart their server, which nobody may do to
//! one that others use. A [`Guardian`] sees to it that no process outlives the test that started it.

mod address;
mod amqp;
mod chromium;
mod find;
mod group;
mod guardian;
mod npm;
mod pg;
mod postgres;
mod programs;
mod python;
mod rabbit;
mod tools;

pub use chromium::{CHROMIUM_VARIABLE, find_chromium};
pub use find::{
    AMQP_DEFAULT, AMQP_VARIABLE, Found, POSTGRES_DEFAULT, POSTGRES_VARIABLE, Servers, find, provide_programs,
};
pub use group::pause;
pub use guardian::Guardian;
pub use npm::find_npm;
pub use postgres::PrivatePostgres;
pub use python::{PYTHON_VARIABLE, find_python};
pub use rabbit::PrivateRabbit;
pub use tools::{find_pngquant, find_strace};
