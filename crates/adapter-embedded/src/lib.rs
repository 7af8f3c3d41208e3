//! SQLite through sea-orm: a durable queue with consumer groups, and a store; no server.
