use super::*;
use serde_json::json;

fn read_json(status: u16, count: usize, body: &serde_json::Value) -> Verdict {
    let body = body.to_string();
    read_bytes(status, count, Some(body.as_bytes()))
}

fn read_bytes(status: u16, count: usize, body: Option<&[u8]>) -> Verdict {
    let endpoint = "http://h/v1/messages".parse().unwrap();
    let wait = Some(Duration::from_secs(2));
    read(
        StatusCode::from_u16(status).unwrap(),
        count,
        body,
        wait,
        &endpoint,
    )
}

/// One letter for each message: published, unavailable, unroutable (x), refused.
fn letters(verdict: &Verdict) -> String {
    let Verdict::Each { outcomes, .. } = verdict else {
        panic!("no outcome for each message: {verdict:?}");
    };
    outcomes.iter().map(letter).collect()
}

fn letter(outcome: &Option<PublishError>) -> char {
    match outcome {
        None => 'p',
        Some(PublishError::Unavailable { .. }) => 'u',
        Some(PublishError::Unroutable { .. }) => 'x',
        Some(PublishError::Refused { .. }) => 'r',
    }
}

#[test]
fn a_receipt_publishes_all_but_those_it_names() {
    let receipt = json!({"accepted": 2, "rejected": 1, "errors": [
        {"index": 1, "pointer": "/body", "code": "too_large", "detail": "a body of 9 bytes", "hint": "send less"}]});
    let verdict = read_json(202, 3, &receipt);
    assert_eq!(letters(&verdict), "prp");
    let Verdict::Each { outcomes, .. } = verdict else {
        unreachable!()
    };
    let said = outcomes[1].as_ref().unwrap().to_string();
    assert!(said.ends_with("/body: a body of 9 bytes"), "{said}");
}

#[test]
fn a_partial_503_repeats_only_what_it_names() {
    let problem = json!({"title": "t", "accepted": 2, "rejected": 1, "unpublished": [{"index": 1, "id": "x"}, {"index": 3, "id": "y"}],
        "errors": [{"index": 1, "code": "unavailable", "detail": "blocked"}, {"index": 2, "code": "refused", "detail": "no"},
                   {"index": 3, "code": "unroutable", "detail": "nobody"}]});
    let verdict = read_json(503, 5, &problem);
    assert_eq!(letters(&verdict), "purxp");
    assert!(matches!(
        verdict,
        Verdict::Each {
            retry_after: Some(_),
            ..
        }
    ));
}

#[test]
fn what_an_answer_leaves_out_is_asked_again() {
    let receipt = json!({"accepted": 3, "rejected": 3, "errors_omitted": 1,
        "errors": [{"index": 0, "code": "too_large"}, {"index": 2, "code": "too_large"}]});
    assert_eq!(letters(&read_json(202, 5, &receipt)), "rpruu");
    let problem = json!({"accepted": 0, "rejected": 3, "errors_omitted": 2,
        "errors": [{"index": 0, "code": "too_large"}]});
    assert_eq!(letters(&read_json(422, 3, &problem)), "rrr");
}

#[test]
fn indices_that_nobody_sent_are_ignored() {
    let receipt = json!({"accepted": 1, "errors": [{"index": 9}], "unpublished": [{"index": 7}]});
    assert_eq!(letters(&read_json(202, 1, &receipt)), "p");
}

#[test]
fn every_status_is_a_decision() {
    let kind = |verdict: Verdict| match verdict {
        Verdict::Each { .. } => "each",
        Verdict::All(PublishError::Unavailable { .. }) => "operator",
        Verdict::All(_) => "refused",
        Verdict::Again { .. } => "again",
        Verdict::TooLarge(_) => "halves",
    };
    for (statuses, expected) in [
        (&[408, 425, 429, 500, 502, 503, 504][..], "again"),
        (
            &[
                401, 403, 404, 405, 407, 411, 415, 421, 431, 301, 302, 308, 200, 204, 501,
            ][..],
            "operator",
        ),
        (&[400, 409, 422][..], "refused"),
        (&[413][..], "halves"),
    ] {
        for status in statuses {
            let problem = json!({"title": "T", "detail": "D"});
            assert_eq!(kind(read_json(*status, 2, &problem)), expected, "{status}");
            assert_eq!(
                kind(read_bytes(*status, 2, Some(b"<html>"))),
                expected,
                "{status}"
            );
            assert_eq!(kind(read_bytes(*status, 2, None)), expected, "{status}");
        }
    }
    assert_eq!(kind(read_bytes(202, 2, Some(b"ok"))), "operator");
}

#[test]
fn what_a_server_says_is_shown_without_control_characters_and_in_part() {
    let problem = json!({"detail": format!("\u{1b}[31m{}", "x".repeat(5_000))});
    let Verdict::Again { error, .. } = read_json(503, 1, &problem) else {
        panic!()
    };
    let said = error.to_string();
    assert!(said.len() < 700 && !said.contains('\u{1b}'), "{said}");
}
