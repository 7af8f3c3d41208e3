//! `/livez` and `/readyz`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};
use utoipa::ToSchema;
use warren_domain::ports::HealthCheck;

use crate::problem::json;

/// How long a dependency has to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer is good for, so that probing costs nothing.
const FRESH: Duration = Duration::from_secs(1);

/// Whether this process can do its part: its dependencies, and whether it is stopping.
///
/// Cloning is cheap; the clones share everything.
#[derive(Clone, Debug)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    checks: Vec<Arc<dyn HealthCheck>>,
    draining: AtomicBool,
    last: Mutex<Option<(Instant, Readiness)>>,
}

impl Health {
    /// Makes the health of a process that depends on what `checks` ask.
    pub fn new(checks: Vec<Arc<dyn HealthCheck>>) -> Self {
        Self(Arc::new(Shared {
            checks,
            draining: AtomicBool::new(false),
            last: Mutex::default(),
        }))
    }

    /// Says `draining` from now on; the first step of stopping, before the server stops accepting.
    pub fn start_draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Asks every dependency, at most once a second and for at most two.
    pub(crate) async fn readiness(&self) -> Readiness {
        if self.0.draining.load(Ordering::Relaxed) {
            return Readiness {
                status: Status::Draining,
                checks: BTreeMap::new(),
            };
        }
        let mut last = self.0.last.lock().await;
        if let Some((asked, readiness)) = &*last
            && asked.elapsed() < FRESH
        {
            return readiness.clone();
        }
        let was = last.as_ref().map(|(_, readiness)| readiness.status);
        let checks: BTreeMap<_, _> = join_all(self.0.checks.iter().map(check))
            .await
            .into_iter()
            .collect();
        let failing = checks.values().any(|check| check.status == CheckStatus::Failing);
        let status = if failing { Status::NotReady } else { Status::Ready };
        let readiness = Readiness { status, checks };
        if was.is_some_and(|was| was != status) {
            log_change(&readiness);
        }
        *last = Some((Instant::now(), readiness.clone()));
        readiness
    }
}

fn log_change(readiness: &Readiness) {
    if readiness.status == Status::Ready {
        info!("ready again");
        return;
    }
    for (name, check) in &readiness.checks {
        if let (CheckStatus::Failing, Some(detail)) = (check.status, &check.detail) {
            warn!(dependency = name, detail, "not ready");
        }
    }
}

async fn check(check: &Arc<dyn HealthCheck>) -> (&'static str, Check) {
    let (status, detail) = match timeout(PATIENCE, check.check()).await {
        Ok(Ok(())) => (CheckStatus::Ok, check.remark()),
        Ok(Err(unhealthy)) => (CheckStatus::Failing, Some(unhealthy.to_string())),
        Err(_) => (
            CheckStatus::Failing,
            Some(format!("no answer within {PATIENCE:?}")),
        ),
    };
    (check.name(), Check { status, detail })
}

/// Whether the process can do its part, and each dependency by name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    status: Status,
    /// By the dependency's name, such as `rabbitmq`.
    checks: BTreeMap<&'static str, Check>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ready,
    NotReady,
    Draining,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CheckStatus {
    Ok,
    Failing,
}

/// The health of one dependency.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Check {
    status: CheckStatus,
    /// What is the matter and what to do; of a dependency that is well, what to know all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Answers as long as the process can answer at all.
#[utoipa::path(
    get, path = "/livez", operation_id = "livez", tag = "health", summary = "Is the process alive?",
    description = "Depends on nothing but the process: restart it when this does not answer.",
    responses((status = 200, description = "Alive.", body = String, example = "ok\n")),
)]
pub(crate) async fn livez() -> &'static str {
    "ok\n"
}

/// Says whether every dependency would do its part now.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "health", summary = "Can it do its part now?",
    responses(
        (status = 200, description = "Every dependency is well.", body = Readiness),
        (status = 503, description = "A dependency fails, or the process is stopping.", body = Readiness),
    ),
)]
pub(crate) async fn readyz(State(health): State<Health>) -> Response {
    let readiness = health.readiness().await;
    let ready = readiness.status == Status::Ready;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut response = json(status, "application/json", &readiness);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use std::sync::atomic::AtomicUsize;
    use warren_domain::ports::Unhealthy;

    #[derive(Debug)]
    struct Dependency {
        name: &'static str,
        well: bool,
        asked: AtomicUsize,
        hangs: bool,
    }

    impl Dependency {
        fn new(name: &'static str, well: bool, hangs: bool) -> Arc<Self> {
            Arc::new(Self {
                name,
                well,
                asked: AtomicUsize::new(0),
                hangs,
            })
        }
    }

    #[async_trait]
    impl HealthCheck for Dependency {
        fn name(&self) -> &'static str {
            self.name
        }

        async fn check(&self) -> Result<(), Unhealthy> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.hangs {
                std::future::pending::<()>().await;
            }
            if self.well {
                Ok(())
            } else {
                Err(Unhealthy("is away; start it".to_owned()))
            }
        }
    }

    #[tokio::test]
    async fn each_dependency_is_named_and_none_can_hold_up_the_answer() {
        let checks: Vec<Arc<dyn HealthCheck>> = vec![
            Dependency::new("a", true, false),
            Dependency::new("b", false, false),
            Dependency::new("c", true, true),
        ];
        let health = Health::new(checks);
        let readiness = serde_json::to_value(health.readiness().await).unwrap();
        assert_eq!(
            readiness,
            serde_json::json!({"status": "not_ready", "checks": {
                "a": {"status": "ok"},
                "b": {"status": "failing", "detail": "is away; start it"},
                "c": {"status": "failing", "detail": "no answer within 2s"},
            }})
        );
    }

    #[tokio::test]
    async fn a_dependency_is_asked_once_a_second_however_often_it_is_probed() {
        let dependency = Dependency::new("a", true, false);
        let health = Health::new(vec![Arc::clone(&dependency) as Arc<dyn HealthCheck>]);
        for _ in 0..10 {
            health.readiness().await;
        }
        assert_eq!(dependency.asked.load(Ordering::Relaxed), 1);
        let asked = async {
            while dependency.asked.load(Ordering::Relaxed) < 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                health.readiness().await;
            }
        };
        assert!(timeout(5 * FRESH, asked).await.is_ok());
    }

    #[tokio::test]
    async fn a_stopping_process_is_not_ready() {
        let health = Health::new(Vec::new());
        assert_eq!(health.readiness().await.status, Status::Ready);
        health.start_draining();
        assert_eq!(health.readiness().await.status, Status::Draining);
    }
}
