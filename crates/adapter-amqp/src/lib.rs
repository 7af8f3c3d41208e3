//! RabbitMQ through amqprs: topology, confirmed packing publisher, consumer, dead letters.

mod acks;
mod backoff;
mod call;
mod config;
mod confirms;
mod connection;
mod consumer;
mod consuming;
mod dead_letters;
mod error;
mod metrics;
mod packet;
mod packing;
mod publisher;
mod reader;
mod settlement;
mod status;
mod tls;
mod topology;
mod url;
mod window;
mod writer;

pub use config::{AmqpConfig, DeadLetterStrategy};
pub use consumer::AmqpConsumer;
pub use error::ConfigError;
pub use metrics::describe_metrics;
pub use publisher::AmqpPublisher;
pub use url::BrokerUrls;
