//! What a client is told about each record of its request.

use std::borrow::Cow;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use warren_domain::MessageId;
use warren_domain::ports::PublishError;
use warren_pipeline::Receipt;

use crate::problem::{Kind, Problem, json};

/// The most faults told one by one, so that an answer stays small; the rest is counted.
pub(crate) const MAX_ERRORS: usize = 100;

/// What became of the records of a request.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = Accepted)]
pub(crate) struct Outcome {
    /// How many messages are durable now.
    #[schema(example = 2)]
    pub(crate) accepted: usize,
    /// How many records are surely not stored, whatever is done again.
    #[schema(example = 1)]
    pub(crate) rejected: usize,
    /// `spooled` when the broker was away and some of the accepted messages rest in the spool, on the disk of this server
    /// alone, until it is back; left out when the broker has confirmed all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "spooled")]
    pub(crate) durability: Option<&'static str>,
    /// The ids of the accepted messages in the order of their records; for one message, or with `?ids=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, example = json!(["019aa0c0-0000-7000-8000-000000000001"]))]
    pub(crate) ids: Option<Vec<MessageId>>,
    /// What is wrong with each record that was not accepted, by ascending place; at most 100 of them.
    pub(crate) errors: Vec<RecordError>,
    /// How many faults are left out of `errors`.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) errors_omitted: usize,
    /// Every message that is valid but not known to be durable: send it again under this id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unpublished: Vec<UnpublishedRecord>,
}

// The signature is the one that serde asks for.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Why one record was not accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RecordError {
    /// The record's place in the request, from 0.
    #[schema(example = 2)]
    index: usize,
    /// Where in the record, as a JSON pointer; empty for the record as a whole.
    #[schema(example = "/severity")]
    pointer: String,
    /// What kind of fault, for programs.
    #[schema(example = "unknown_severity")]
    code: &'static str,
    /// What is wrong, for people.
    #[schema(
        example = "\"loud\" is not one of debug, info, warning, error, critical, nor one of their aliases"
    )]
    detail: String,
    /// How to mend it.
    #[schema(value_type = String, example = "use debug, info, warning, error or critical")]
    hint: Cow<'static, str>,
}

/// A message that is valid, but not known to be durable.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UnpublishedRecord {
    /// The record's place in the request, from 0.
    index: usize,
    /// The id to send it again under.
    #[schema(value_type = String, example = "019aa0c0-0000-7000-8000-000000000001")]
    id: MessageId,
}

const RESEND: &str = "send it again under the same id, which is listed in unpublished";
const RESEND_REQUEST: &str = "send the whole request again under the same Idempotency-Key";

/// Turns a receipt into the answer: 202, 422 or 503.
///
/// `keyed`: the request has a key, under which it can be sent again as a whole.
pub(crate) fn answer(receipt: Receipt, ids_wanted: bool, keyed: bool) -> Response {
    let records = receipt.accepted.len() + receipt.rejected.len() + receipt.unpublished.len();
    let outcome = outcome(receipt, ids_wanted || records == 1, keyed);
    if !outcome.unpublished.is_empty() {
        let (lost, all) = (outcome.unpublished.len(), records);
        let problem = Problem::new(
            Kind::Unavailable,
            format!("{lost} of {all} messages are not known to be durable"),
            if keyed {
                "wait as long as Retry-After says, then send the whole request again under the same Idempotency-Key"
            } else {
                "wait as long as Retry-After says, then send the messages listed in unpublished again, each with its \
                 id; what is accepted already needs no repetition"
            },
        );
        return problem.with_outcome(outcome).into_response();
    }
    if outcome.accepted == 0 {
        let problem = Problem::new(
            Kind::InvalidMessages,
            format!("none of {} can be taken", count(records, "record")),
            "mend what errors names; nothing of this request is stored",
        );
        return problem.with_outcome(outcome).into_response();
    }
    json(StatusCode::ACCEPTED, "application/json", &outcome)
}

fn outcome(receipt: Receipt, ids_wanted: bool, keyed: bool) -> Outcome {
    let mut outcome = Outcome {
        accepted: receipt.accepted.len(),
        rejected: receipt.rejected.len(),
        durability: (receipt.spooled > 0).then_some("spooled"),
        ids: ids_wanted.then(|| receipt.accepted.into_iter().map(|(_, id)| id).collect()),
        ..Outcome::default()
    };
    let mut errors: Vec<RecordError> = Vec::new();
    let mut faults = 0;
    for (index, rejection) in receipt.rejected {
        faults += 1;
        if faults <= MAX_ERRORS {
            errors.push(RecordError {
                index,
                pointer: rejection.pointer,
                code: rejection.code.as_str(),
                detail: rejection.detail,
                hint: rejection.hint,
            });
        }
    }
    let resend = if keyed { RESEND_REQUEST } else { RESEND };
    let mut unpublished_faults = 0;
    for (index, id, error) in receipt.unpublished {
        let (code, hint, again) = match &error {
            PublishError::Unavailable { .. } => ("unavailable", resend, true),
            PublishError::Unroutable { .. } => ("unroutable", resend, true),
            PublishError::Refused { .. } => ("refused", "mend it; it will never be taken as it is", false),
        };
        if again {
            outcome.unpublished.push(UnpublishedRecord { index, id });
        } else {
            outcome.rejected += 1;
        }
        faults += 1;
        unpublished_faults += 1;
        if unpublished_faults <= MAX_ERRORS {
            errors.push(RecordError {
                index,
                pointer: String::new(),
                code,
                detail: error.to_string(),
                hint: Cow::Borrowed(hint),
            });
        }
    }
    // Both lists ascend, and so does the one that is told.
    errors.sort_by_key(|error| error.index);
    errors.truncate(MAX_ERRORS);
    outcome.errors_omitted = faults - errors.len();
    outcome.errors = errors;
    outcome
}

/// Writes a number with its noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_domain::{Rejection, RejectionCode};

    fn rejection() -> Rejection {
        Rejection::new(RejectionCode::MissingField, "/body", "no body", "add one")
    }

    fn status(receipt: Receipt) -> u16 {
        answer(receipt, false, false).status().as_u16()
    }

    #[test]
    fn one_durable_message_makes_202_and_none_makes_422() {
        let id = MessageId::generate();
        let accepted = vec![(0, id)];
        let rejected = vec![(1, rejection())];
        assert_eq!(
            status(Receipt {
                accepted,
                rejected: rejected.clone(),
                ..Receipt::default()
            }),
            202
        );
        assert_eq!(
            status(Receipt {
                rejected,
                ..Receipt::default()
            }),
            422
        );
    }

    #[test]
    fn what_rests_in_the_spool_is_accepted_and_said_to() {
        let receipt = |spooled| Receipt {
            accepted: vec![(0, MessageId::generate())],
            spooled,
            ..Receipt::default()
        };
        assert_eq!(status(receipt(1)), 202);
        let told = |spooled| serde_json::to_value(outcome(receipt(spooled), false, false)).unwrap();
        assert_eq!(told(1)["durability"], "spooled");
        assert_eq!(told(0).get("durability"), None);
    }

    #[test]
    fn a_message_that_may_come_again_makes_503_and_names_its_id() {
        let id = MessageId::generate();
        let receipt = Receipt {
            accepted: vec![(0, MessageId::generate())],
            rejected: vec![(1, rejection())],
            unpublished: vec![(2, id, PublishError::unavailable("blocked"))],
            spooled: 0,
        };
        let told = serde_json::to_value(outcome(receipt, false, false)).unwrap();
        assert_eq!(told["accepted"], 1);
        assert_eq!(told["rejected"], 1);
        assert_eq!(
            told["unpublished"],
            serde_json::json!([{"index": 2, "id": id.to_string()}])
        );
        assert_eq!(told["errors"][1]["code"], "unavailable");
        assert!(told.get("ids").is_none());
    }

    #[test]
    fn a_refused_message_is_a_rejected_one() {
        let refused = PublishError::Refused {
            reason: "too large".to_owned(),
        };
        let receipt = Receipt {
            unpublished: vec![(0, MessageId::generate(), refused)],
            ..Receipt::default()
        };
        let response = answer(receipt, false, false);
        assert_eq!(response.status(), 422);
    }

    #[test]
    fn many_faults_are_counted_and_the_first_hundred_told() {
        let receipt = Receipt {
            rejected: (0..150).map(|index| (index * 2, rejection())).collect(),
            unpublished: (0..150)
                .map(|index| {
                    (
                        index * 2 + 1,
                        MessageId::generate(),
                        PublishError::unavailable("away"),
                    )
                })
                .collect(),
            ..Receipt::default()
        };
        let outcome = outcome(receipt, true, false);
        assert_eq!(outcome.errors.len(), 100);
        assert!(outcome.errors.iter().map(|error| error.index).eq(0..100));
        assert_eq!(outcome.errors_omitted, 200);
        assert_eq!(outcome.unpublished.len(), 150);
    }
}
