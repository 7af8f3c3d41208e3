//! axum: intake routes, problem details, health.
