//! What every Warren process does: settings, telemetry, signals, the drain.
//!
//! A composition root reads top to bottom with the pieces of this crate:
//! [`cli::SettingsArgs`] from the command line, [`settings::load`] for the whole configuration or all of its
//! problems, [`telemetry::logging::init`] and [`telemetry::metrics::install`], [`shutdown::on_signals`], the work,
//! [`shutdown::drain`], and an [`exit::Exit`].
//!
//! Nothing here knows a message, a broker or a store: the sections of the configuration belong to the adapters,
//! and each binary composes its own struct of them.

pub mod cli;
pub mod docs;
pub mod exit;
pub mod healthcheck;
pub mod peer;
pub mod program;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod terminal;
