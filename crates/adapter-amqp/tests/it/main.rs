//! Against a real RabbitMQ: `WARREN_TEST_AMQP_URL`, or one on this machine.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod conformance;
mod dead_letters;
mod delivery;
mod faults;
mod groups;
mod keeping;
mod proxy;
mod raw;
mod reconnecting;
mod support;
mod tail;
mod tls;
mod topology;
