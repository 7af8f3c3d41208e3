//! The module over every way it publishes: scripted, over HTTP, into RabbitMQ and into the embedded log.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod conformance;
mod embedded;
mod examples;
mod full;
mod http;
mod layer;
mod logger;
mod proxy;
mod rabbitmq;
mod support;
