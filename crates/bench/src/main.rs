//! Throughput, latency and cost of the whole path, beside the raw limits of the machine.

fn main() {}
