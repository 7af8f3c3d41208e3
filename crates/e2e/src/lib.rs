//! Harness of the end-to-end tests: starts the real binaries, keeps a ledger.
