//! RabbitMQ in, PostgreSQL out; also migrate.

fn main() {}
