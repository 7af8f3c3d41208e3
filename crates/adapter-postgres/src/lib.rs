//! PostgreSQL through sea-orm and tokio-postgres: migrations, partitions, store.
