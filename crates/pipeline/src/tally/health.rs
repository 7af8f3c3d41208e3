//! Whether the loops of several groups are at work.

use async_trait::async_trait;
use warren_domain::ports::{GroupName, HealthCheck, Unhealthy};

use crate::WorkerHealth;

/// Answers for the tally loops of one process together, as `tally`.
#[derive(Clone, Debug)]
pub struct TallyHealth(Vec<(GroupName, WorkerHealth)>);

impl TallyHealth {
    /// Answers for these groups.
    pub fn of(loops: impl IntoIterator<Item = (GroupName, WorkerHealth)>) -> Self {
        Self(loops.into_iter().collect())
    }
}

#[async_trait]
impl HealthCheck for TallyHealth {
    fn name(&self) -> &'static str {
        "tally"
    }

    async fn check(&self) -> Result<(), Unhealthy> {
        for (group, health) in &self.0 {
            health
                .check()
                .await
                .map_err(|unhealthy| Unhealthy(format!("group {group}: {unhealthy}")))?;
        }
        Ok(())
    }
}
