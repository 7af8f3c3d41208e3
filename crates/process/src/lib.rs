//! What every Warren process does: settings, telemetry, signals, the drain.
