//! What runs: intake, store loop, maintenance; knows only ports.
