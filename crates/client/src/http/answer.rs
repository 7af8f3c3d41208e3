//! What an answer means for each message of the request.

use std::collections::HashMap;
use std::time::Duration;

use reqwest::{StatusCode, Url};
use serde::Deserialize;
use warren_domain::ports::PublishError;

/// What an answer means.
#[derive(Debug)]
pub(super) enum Verdict {
    /// For each message: published, or why not. What is not refused is to be sent again.
    Each {
        outcomes: Vec<Option<PublishError>>,
        retry_after: Option<Duration>,
    },
    /// The same for all, and final.
    All(PublishError),
    /// Nothing is known: send all of it again.
    Again {
        error: PublishError,
        retry_after: Option<Duration>,
    },
    /// Over a limit of the server, which this names.
    TooLarge(String),
}

/// The parts of an answer that matter here; of a problem and of a receipt alike.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    title: String,
    detail: String,
    accepted: Option<usize>,
    errors: Vec<RecordError>,
    errors_omitted: usize,
    unpublished: Vec<UnpublishedRecord>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RecordError {
    index: usize,
    pointer: String,
    code: String,
    detail: String,
}

#[derive(Debug, Deserialize)]
struct UnpublishedRecord {
    index: usize,
}

/// Reads the answer to a request of `count` messages; `body` is `None` when it was too long to be read.
pub(super) fn read(
    status: StatusCode,
    count: usize,
    body: Option<&[u8]>,
    retry_after: Option<Duration>,
    endpoint: &Url,
) -> Verdict {
    let answer: Option<Answer> = body.and_then(|body| serde_json::from_slice(body).ok());
    let said = Said {
        status,
        answer: answer.as_ref(),
        endpoint,
    };
    match status.as_u16() {
        202 => match answer {
            Some(answer) if answer.accepted.is_some() => Verdict::Each {
                outcomes: outcomes(count, &answer),
                retry_after: None,
            },
            _ => Verdict::All(said.unavailable("without the receipt that Warren gives")),
        },
        413 => Verdict::TooLarge(said.text()),
        422 => match answer {
            Some(answer) if answer.accepted == Some(0) => Verdict::Each {
                outcomes: all_refused(count, &answer),
                retry_after: None,
            },
            _ => Verdict::All(said.refused()),
        },
        503 if answer.as_ref().is_some_and(|answer| answer.accepted.is_some()) => Verdict::Each {
            outcomes: answer.map(|answer| outcomes(count, &answer)).unwrap_or_default(),
            retry_after,
        },
        408 | 425 | 429 | 500 | 502 | 503 | 504 => Verdict::Again {
            error: said.unavailable(""),
            retry_after,
        },
        // A key, an address, a proxy, what a proxy takes: an operator can mend it, and no message is at fault.
        401 | 403 | 404 | 405 | 407 | 411 | 415 | 421 | 431 => Verdict::All(said.unavailable("")),
        400..=499 => Verdict::All(said.refused()),
        _ => Verdict::All(said.unavailable("as Warren never does")),
    }
}

/// An answer in words.
struct Said<'a> {
    status: StatusCode,
    answer: Option<&'a Answer>,
    endpoint: &'a Url,
}

impl Said<'_> {
    fn text(&self) -> String {
        let said = self.answer.map_or("", |answer| {
            if answer.detail.is_empty() {
                &answer.title
            } else {
                &answer.detail
            }
        });
        let colon = if said.is_empty() { "" } else { ": " };
        format!(
            "{} answered {}{colon}{}",
            self.endpoint,
            self.status,
            excerpt(said)
        )
    }

    fn unavailable(&self, how: &str) -> PublishError {
        let space = if how.is_empty() { "" } else { ", " };
        PublishError::unavailable(format!("{}{space}{how}", self.text()))
    }

    fn refused(&self) -> PublishError {
        PublishError::Refused { reason: self.text() }
    }
}

/// What others say is shown in part only.
fn excerpt(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(500)
        .collect()
}

/// Says for each message what a receipt says.
///
/// `unpublished` is complete; `errors` is cut off after the first hundred, and `errors_omitted` counts the rest: a
/// message behind the last one that is told may be accepted or refused, and only asking again tells.
fn outcomes(count: usize, answer: &Answer) -> Vec<Option<PublishError>> {
    let errors: HashMap<usize, &RecordError> =
        answer.errors.iter().map(|error| (error.index, error)).collect();
    let mut outcomes: Vec<Option<PublishError>> = vec![None; count];
    let told = answer
        .errors
        .iter()
        .map(|error| error.index + 1)
        .max()
        .unwrap_or(0);
    if answer.errors_omitted > 0 {
        for outcome in outcomes.iter_mut().skip(told) {
            *outcome = Some(PublishError::unavailable(
                "the answer leaves out what became of the message",
            ));
        }
    }
    for (index, error) in &errors {
        if let Some(outcome) = outcomes.get_mut(*index) {
            *outcome = Some(verdict(error));
        }
    }
    for UnpublishedRecord { index } in &answer.unpublished {
        if let Some(outcome) = outcomes.get_mut(*index)
            && !matches!(
                outcome,
                Some(PublishError::Unavailable { .. } | PublishError::Unroutable { .. })
            )
        {
            *outcome = Some(PublishError::unavailable(
                "the server could not make the message durable",
            ));
        }
    }
    outcomes
}

/// Of a request none of whose records is a message.
fn all_refused(count: usize, answer: &Answer) -> Vec<Option<PublishError>> {
    let mut outcomes = vec![
        Some(PublishError::Refused {
            reason: "the server takes no message of the request".to_owned()
        });
        count
    ];
    for error in &answer.errors {
        if let Some(outcome) = outcomes.get_mut(error.index) {
            *outcome = Some(refused(error));
        }
    }
    outcomes
}

fn verdict(error: &RecordError) -> PublishError {
    match error.code.as_str() {
        "unavailable" => PublishError::unavailable(excerpt(&error.detail)),
        "unroutable" => PublishError::Unroutable {
            reason: excerpt(&error.detail),
        },
        _ => refused(error),
    }
}

fn refused(error: &RecordError) -> PublishError {
    let colon = if error.pointer.is_empty() { "" } else { ": " };
    let reason = format!("{}{colon}{}", excerpt(&error.pointer), excerpt(&error.detail));
    PublishError::Refused { reason }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
