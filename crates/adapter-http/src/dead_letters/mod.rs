//! `/v1/dead-letters`: looking at what nobody could store, redriving and purging it.
//!
//! Whoever reaches the server may do all of it, as with every route here. What changes something wants JSON, which a page
//! in somebody's browser cannot send to another server unasked.

mod asked;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;
use warren_domain::Timestamp;
use warren_domain::ports::{DeadLetterFilter, DeadLetterId, DeadLettersError, Revision};
use warren_pipeline::dead_letters::{Begun, DeadLetterJobs, JobAction, JobReport};

use crate::edge::BodyRead;
use crate::openapi::ProblemForm;
use crate::problem::{Kind, Problem, json};
use crate::reading::{Room, Turns};
use crate::trouble::Trouble;

use asked::{Listing, Wish};
use view::MOST_SHOWN;
pub(crate) use view::{JobForm, JobsForm, LetterPage, LetterView, WholeLetter, WishForm};

/// Where the routes are, as the router knows them.
pub(crate) const DEAD_LETTER_ROUTES: [&str; 6] = [
    "/v1/dead-letters",
    "/v1/dead-letters/{id}",
    "/v1/dead-letters/redrive",
    "/v1/dead-letters/purge",
    "/v1/dead-letters/jobs",
    "/v1/dead-letters/jobs/{id}",
];

/// The largest body that is read, in bytes: a thousand ids are 40 KiB.
const MOST_BODY: usize = 256 << 10;

/// How long it may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the routes answer from.
#[derive(Debug)]
pub(crate) struct Letters {
    jobs: DeadLetterJobs,
    turns: Turns,
    trouble: Trouble,
}

/// Makes the routes; large answers have this room.
pub(crate) fn router(jobs: DeadLetterJobs, room: Arc<Room>) -> Router {
    let [letters, letter, redrive, purge, all_jobs, job] = DEAD_LETTER_ROUTES;
    Router::new()
        .route(letters, get(get_dead_letters))
        .route(letter, get(get_dead_letter))
        .route(redrive, post(post_redrive))
        .route(purge, post(post_purge))
        .route(all_jobs, get(get_jobs))
        .route(job, get(get_job).delete(delete_job))
        .with_state(Arc::new(Letters {
            jobs,
            turns: Turns::for_dead_letters(room),
            trouble: Trouble::with::<DeadLettersError>(),
        }))
}

/// Lists letters, page by page.
#[utoipa::path(
    get, path = "/v1/dead-letters", operation_id = "deadLetters", tag = "dead letters",
    summary = "List dead letters, the last one that died first",
    params(
        ("reason" = Option<String>, Query, description = "Only these reasons, separated by commas: `undecodable`, \
            `refused_by_store`, `delivery_limit`, …"),
        ("severity" = Option<String>, Query, description = "Only these severities, such as `error,critical` or `error+`.",
            example = "error+"),
        ("source" = Option<String>, Query, description = "Only this source, or with `.#` all beneath it too.",
            example = "billing.#"),
        ("since" = Option<String>, Query, description = "Only those that died at this time or later: RFC 3339, \
            or before now: `-15m`, `-1h`, `-7d`."),
        ("until" = Option<String>, Query, description = "Only those that died before this time, likewise, or \
            `now`."),
        ("limit" = Option<usize>, Query, description = "At most so many, 1 to 999; 100 if absent."),
        ("after" = Option<String>, Query, description = "The `next` of the page before."),
    ),
    responses(
        (status = 200, description = "A page of letters, without their bytes.", body = LetterPage),
        (status = 400, description = "A parameter that is wrong, by name.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 503, description = "Where the letters are kept does not answer, or too many read at once.",
            body = ProblemForm, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_dead_letters(
    State(kept): State<Arc<Letters>>,
    uri: Uri,
) -> Result<Response, Problem> {
    let Listing { filter, after, limit } = Listing::parse(uri.query(), Timestamp::now())?;
    let turn = kept.turns.take().await?;
    // One more than is asked for tells whether there is a next page.
    let listed = kept.jobs.letters().list(&filter, after, limit + 1).await;
    let mut letters = kept.trouble.heed(listed)?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters
        .last()
        .filter(|_| more)
        .map(|letter| letter.place().to_string());
    let letters = letters.into_iter().map(LetterView::from).collect();
    kept.turns.answer(LetterPage { letters, next }, turn).await
}

/// Shows one letter with its bytes.
#[utoipa::path(
    get, path = "/v1/dead-letters/{id}", operation_id = "deadLetter", tag = "dead letters",
    summary = "One dead letter with its original bytes",
    params(("id" = String, Path, description = "The letter's id.")),
    responses(
        (status = 200, description = "The letter.", body = WholeLetter),
        (status = 400, description = "Not an id.", body = ProblemForm, content_type = "application/problem+json"),
        (status = 404, description = "No such letter: it was redriven or purged.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 503, description = "Where the letters are kept does not answer, or too many read at once.",
            body = ProblemForm, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_dead_letter(
    State(kept): State<Arc<Letters>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = of_path(id)?;
    let parsed: DeadLetterId = id.parse().map_err(|error| asked::wrong("id", &id, error))?;
    let turn = kept.turns.take().await?;
    let shown = kept.jobs.letters().show(parsed, MOST_SHOWN).await;
    let (letter, content) = kept.trouble.heed(shown)?.ok_or_else(|| {
        Problem::new(
            Kind::NotFound,
            format!("there is no dead letter {parsed}"),
            "it may have been redriven or purged; list them with GET /v1/dead-letters",
        )
    })?;
    let make = move || WholeLetter::of(letter, content);
    kept.turns.answer_with(make, turn).await
}

/// Sends letters on their way again.
#[utoipa::path(
    post, path = "/v1/dead-letters/redrive", operation_id = "redriveDeadLetters", tag = "dead letters",
    summary = "Send dead letters on their way again",
    description = "Publishes the messages of every letter that is meant under their ids, and removes each letter once its \
        messages are durable again. Redriven twice, a message is stored once. A letter that still cannot be read stays. \
        With neither `filter` nor `ids` all of them are meant.",
    request_body(content((WishForm = "application/json"))),
    responses(
        (status = 200, description = "`dry_run`: how many letters are meant.", body = DryRun),
        (status = 202, description = "The job that has begun; `Location` is where to ask for it.", body = JobForm),
        (status = 400, description = "A member that is wrong, by name.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 409, description = "Another job is under way, or letters can only be looked at here.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 413, description = "Over a limit, which is named.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 503, description = "Where the letters are kept does not answer, or too many read at once.",
            body = ProblemForm, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn post_redrive(State(kept): State<Arc<Letters>>, request: Request) -> Response {
    begin(&kept, JobAction::Redrive, request).await
}

/// Removes letters for good.
#[utoipa::path(
    post, path = "/v1/dead-letters/purge", operation_id = "purgeDeadLetters", tag = "dead letters",
    summary = "Remove dead letters for good",
    description = "Removes every letter that is meant, and none that dies after the job has begun; with the `as_of` of a \
        dry run, none that has died since that. Both go by the clocks of those who keep letters: one whose clock is \
        behind may keep one later that is meant all the same. Without `filter` and `ids` it has to say `\"all\": true`.",
    request_body(content((WishForm = "application/json"))),
    responses(
        (status = 200, description = "`dry_run`: how many letters are meant.", body = DryRun),
        (status = 202, description = "The job that has begun; `Location` is where to ask for it.", body = JobForm),
        (status = 400, description = "A member that is wrong, by name.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 409, description = "Another job is under way, or letters can only be looked at here.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 413, description = "Over a limit, which is named.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 415, description = "Not `application/json`.", body = ProblemForm,
            content_type = "application/problem+json"),
        (status = 503, description = "Where the letters are kept does not answer, or too many read at once.",
            body = ProblemForm, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn post_purge(State(kept): State<Arc<Letters>>, request: Request) -> Response {
    begin(&kept, JobAction::Purge, request).await
}

/// Lists the jobs that this process remembers.
#[utoipa::path(
    get, path = "/v1/dead-letters/jobs", operation_id = "deadLetterJobs", tag = "dead letters",
    summary = "The last jobs over dead letters, the newest first",
    responses((status = 200, description = "At most 20 jobs, since the process began.", body = JobsForm)),
)]
pub(crate) async fn get_jobs(State(kept): State<Arc<Letters>>) -> Response {
    #[derive(Serialize)]
    struct Jobs {
        jobs: Vec<JobReport>,
    }
    answer(
        StatusCode::OK,
        &Jobs {
            jobs: kept.jobs.all(),
        },
    )
}

/// Tells how far a job is.
#[utoipa::path(
    get, path = "/v1/dead-letters/jobs/{id}", operation_id = "deadLetterJob", tag = "dead letters",
    summary = "How far a job is",
    params(("id" = String, Path, description = "The job's id.")),
    responses(
        (status = 200, description = "The job.", body = JobForm),
        (status = 400, description = "Not UTF-8.", body = ProblemForm, content_type = "application/problem+json"),
        (status = 404, description = "This process knows no such job.", body = ProblemForm,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn get_job(
    State(kept): State<Arc<Letters>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = of_path(id)?;
    let report = kept.jobs.job(&id).ok_or_else(|| no_such_job(&id))?;
    Ok(answer(StatusCode::OK, &report))
}

/// Tells a job to stop.
#[utoipa::path(
    delete, path = "/v1/dead-letters/jobs/{id}", operation_id = "cancelDeadLetterJob", tag = "dead letters",
    summary = "Tell a job to stop",
    description = "It stops after the batch that is under way: what it has done stays done. One that has ended is not changed.",
    params(("id" = String, Path, description = "The job's id.")),
    responses(
        (status = 202, description = "The job as it was when it was told.", body = JobForm),
        (status = 400, description = "Not UTF-8.", body = ProblemForm, content_type = "application/problem+json"),
        (status = 404, description = "This process knows no such job.", body = ProblemForm,
            content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn delete_job(
    State(kept): State<Arc<Letters>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let id = of_path(id)?;
    let report = kept.jobs.cancel(&id).ok_or_else(|| no_such_job(&id))?;
    Ok(answer(StatusCode::ACCEPTED, &report))
}

/// How many letters are meant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DryRun {
    /// That nothing was done.
    dry_run: bool,
    /// How many letters are meant.
    letters: u64,
    /// The same, by reason.
    by_reason: BTreeMap<String, u64>,
    /// The newest state that was counted: given to a job, it means these letters and none that has died since, as far as
    /// the clocks of those who keep letters agree.
    #[schema(format = "uuid")]
    as_of: String,
}

/// Reads what is wished, counts or begins; says in any case that the body was read, if it was.
async fn begin(kept: &Letters, action: JobAction, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes = match read(&parts.headers, body).await {
        Ok(bytes) => bytes,
        Err(problem) => return problem.into_response(),
    };
    let begun = async {
        let wish = Wish::parse(&bytes)?;
        let filter = wish.filter(Timestamp::now())?;
        if wish.dry_run {
            return count(kept, &filter).await;
        }
        if action == JobAction::Purge && filter.means_all() && !wish.all {
            return Err(Problem::new(
                Kind::InvalidParameter,
                "a purge without a filter and without ids would remove every dead letter",
                "name what to remove in `filter` or `ids`, or say \"all\": true",
            ));
        }
        // It counts before it begins.
        let turn = kept.turns.take().await?;
        let begun = kept.jobs.begin(action, filter).await;
        drop(turn);
        match kept.trouble.heed(begun)? {
            Begun::Job(report) => Ok(accepted(&report)),
            Begun::Busy(running) => Err(Problem::new(
                Kind::JobUnderWay,
                format!("job {} is under way, and there is one at a time", running.id),
                format!(
                    "wait for it at /v1/dead-letters/jobs/{}, or cancel it with DELETE",
                    running.id
                ),
            )),
        }
    };
    let mut response = begun.await.unwrap_or_else(IntoResponse::into_response);
    response.extensions_mut().insert(BodyRead);
    response
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    let json = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json")
        });
    if !json {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "what changes dead letters has to come as application/json",
            "say Content-Type: application/json, and send an object, such as {\"dry_run\":true}",
        ));
    }
    match timeout(BODY_TIMEOUT, to_bytes(body, MOST_BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(_)) => Err(Problem::new(
            Kind::TooLarge,
            format!("the body is over {MOST_BODY} bytes, or did not come to its end"),
            "name fewer ids, at most 1000, or a filter",
        )),
        Err(_) => Err(Problem::new(
            Kind::SlowBody,
            format!("the body did not come within {BODY_TIMEOUT:?}"),
            "send it again, faster",
        )),
    }
}

async fn count(kept: &Letters, filter: &DeadLetterFilter) -> Result<Response, Problem> {
    let _turn = kept.turns.take().await?;
    let counts = kept.trouble.heed(kept.jobs.letters().count(filter).await)?;
    let dry_run = DryRun {
        dry_run: true,
        letters: counts.total(),
        by_reason: counts.by_reason,
        as_of: counts.newest.unwrap_or(Revision::NONE).to_string(),
    };
    Ok(answer(StatusCode::OK, &dry_run))
}

fn accepted(report: &JobReport) -> Response {
    let mut response = answer(StatusCode::ACCEPTED, report);
    if let Ok(place) = HeaderValue::try_from(format!("/v1/dead-letters/jobs/{}", report.id)) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}

fn answer(status: StatusCode, document: &impl Serialize) -> Response {
    json(status, "application/json", document)
}

fn of_path(id: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    id.map(|Path(id)| id)
        .map_err(|rejected| asked::wrong("id", "", rejected.body_text()))
}

fn no_such_job(id: &str) -> Problem {
    let id: String = id.chars().take(80).collect();
    Problem::new(
        Kind::NotFound,
        format!("there is no job {id:?} here"),
        "jobs are known to the process that runs them, until it ends, and the last 20 only; \
         GET /v1/dead-letters/jobs lists them",
    )
}

impl From<DeadLettersError> for Problem {
    fn from(error: DeadLettersError) -> Self {
        let (kind, hint) = match &error {
            DeadLettersError::Unavailable { .. } => (
                Kind::LettersUnavailable,
                "wait as long as Retry-After says and ask again",
            ),
            DeadLettersError::ReadOnly { .. } => (
                Kind::LettersReadOnly,
                "ask a `store-worker` or a `query-api` on the primary; nothing was published or removed",
            ),
            DeadLettersError::Misconfigured { .. } => {
                (Kind::LettersUnavailable, "whoever runs this server has to act")
            }
        };
        tracing::debug!(error = %error, cause = ?std::error::Error::source(&error), "dead letters cannot be reached");
        Self::new(kind, error.to_string(), hint)
    }
}
