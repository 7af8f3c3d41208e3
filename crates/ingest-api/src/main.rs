//! HTTP in, RabbitMQ out.

fn main() {}
