//! cargo xtask test | lint | bench.

fn main() {}
