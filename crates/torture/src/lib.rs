//! Proves "nothing lost, nothing twice": the real programs, real servers, faults from a seed, and an own ledger.
//!
//! Everything that is random comes from one seed and is written down before the start: which fault, when, on what, for
//! how long. So a run that failed can be run again. The processes are real, hence the interleaving may differ; the
//! plan does not.

pub mod fault;
pub mod plan;
pub mod proxy;
