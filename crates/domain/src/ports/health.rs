//! Whether a dependency can do its part now.

use std::fmt;

use async_trait::async_trait;

/// A dependency that can say whether it would do its part now.
#[async_trait]
pub trait HealthCheck: fmt::Debug + Send + Sync + 'static {
    /// Returns the dependency's name in `/readyz`, such as `rabbitmq` or `postgres`.
    fn name(&self) -> &'static str;

    /// Asks, or tells what is already known; answers within two seconds.
    ///
    /// # Errors
    /// [`Unhealthy`] with what is the matter and what to do, fit to be shown to an operator, without secrets.
    async fn check(&self) -> Result<(), Unhealthy>;

    /// Returns what an operator should know although all is well; asked right after [`HealthCheck::check`] said so.
    fn remark(&self) -> Option<String> {
        None
    }
}

/// What is the matter with a dependency.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unhealthy(pub String);
