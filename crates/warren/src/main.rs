//! Everything in one process on the embedded adapter, and the command line.

fn main() {}
