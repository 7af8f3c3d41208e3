//! The ports' contracts as test suites, and scripted fakes for the use cases' own tests.
//!
//! An adapter proves itself in its integration tests:
//!
//! ```ignore
//! warren_adapter_conformance::broker_suite!(MyBroker::fresh());
//! warren_adapter_conformance::store_suite!(MyStore::fresh());
//! warren_adapter_conformance::tally_suite!(MyBook::fresh());
//! warren_adapter_conformance::dead_letters_suite!(MyLetters::fresh());
//! warren_adapter_conformance::reader_suite!(MyReader::fresh());
//! warren_adapter_conformance::live_suite!(MyBroker::fresh());
//! warren_adapter_conformance::group_queues_suite!(MyBroker::fresh());
//! ```
//!
//! where `fresh()` is a future that yields an `Arc` of something that implements [`broker::BrokerUnderTest`],
//! [`store::StoreUnderTest`], [`tally::TallyUnderTest`], [`dead_letters::DeadLettersUnderTest`],
//! [`reader::ReaderUnderTest`], [`live::LiveUnderTest`] or [`group_queues::GroupQueuesUnderTest`], isolated from every
//! other test. Each test of a suite becomes a test of its own; the crate that calls the macro needs `tokio` among its
//! dependencies.
//!
//! The suites fail by panicking, as tests do.

// A suite is test code that lives in a library; the names of its tests are their documentation.
#![allow(clippy::unwrap_used, missing_docs)]

pub mod broker;
mod calls;
pub mod dead_letters;
pub mod group_queues;
pub mod live;
pub mod reader;
pub mod samples;
pub mod scripted;
pub mod scripted_letters;
pub mod scripted_live;
pub mod scripted_reader;
pub mod store;
pub mod tally;

use std::panic::resume_unwind;
use std::time::Duration;

/// How long a suite waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `test` in a task of its own and `tear_down` after it, also when the test panics.
#[doc(hidden)]
pub async fn run_isolated(
    test: impl Future<Output = ()> + Send + 'static,
    tear_down: impl Future<Output = ()> + Send,
) {
    let outcome = tokio::spawn(test).await;
    tear_down.await;
    if let Err(failure) = outcome {
        match failure.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(cancelled) => panic!("the test was cancelled: {cancelled}"),
        }
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! suite {
    ($module:ident, $make:expr, $($test:ident),+ $(,)?) => {
        $(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let subject = $make.await;
                let under_test = ::std::sync::Arc::clone(&subject);
                $crate::run_isolated(
                    async move { $crate::$module::$test(&*under_test).await },
                    $crate::$module::tear_down(&*subject),
                )
                .await;
            }
        )+
    };
}

/// Compiles and runs what `docs/extending.md` shows.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/extending.md")]
struct ExtendingGuide;
