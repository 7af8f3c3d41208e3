//! PostgreSQL as it really is: each test has a database of its own on the server that `WARREN_TEST_POSTGRES_URL` names.
#![allow(missing_docs, clippy::unwrap_used)]

mod conformance;
mod damage;
mod days;
mod outages;
mod proxy;
mod reading;
mod rights;
mod schema;
mod standby;
mod storing;
mod support;
mod tls;
mod words;
