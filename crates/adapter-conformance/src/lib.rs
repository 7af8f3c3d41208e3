//! The ports' contracts as test suites, and scripted failing fakes.
