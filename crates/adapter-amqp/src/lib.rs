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
mod lag;
mod metrics;
mod packet;
mod packing;
mod publisher;
mod quarantine;
mod reader;
mod removal;
mod settlement;
mod settler;
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
pub use removal::{RemovalError, remove_topology};
pub use url::BrokerUrls;
