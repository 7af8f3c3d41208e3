//! What was counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Keeps counters and gauges of the thread it is set for.
#[derive(Default)]
pub(crate) struct Recorded(Mutex<HashMap<String, Arc<AtomicU64>>>);

impl Recorded {
    fn place(&self, name: &str) -> Arc<AtomicU64> {
        Arc::clone(self.0.lock().unwrap().entry(name.to_owned()).or_default())
    }

    /// Returns a counter, over all labels.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.place(name).load(Ordering::SeqCst)
    }

    /// Tells whether a number is shown.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.lock().unwrap().contains_key(name)
    }

    /// Returns a gauge.
    pub(crate) fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.count(name))
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.place(key.name()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.place(key.name()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
