use std::sync::Arc;
use std::time::Duration;

use warren_adapter_conformance::scripted::{PublishStep, ScriptedPublisher};
use warren_domain::ports::{MessagePublisher, PublishError, Unpublished};
use warren_domain::{Draft, IdempotencyKey, Message, MessageLimits, Rejection, RejectionCode, TraceContext};
use warren_pipeline::{Intake, Receipt};

fn records(bodies: &[&str]) -> Vec<Result<Draft, Rejection>> {
    bodies
        .iter()
        .map(|json| Draft::from_json(json.as_bytes()))
        .collect()
}

fn places(receipt: &Receipt) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    (
        receipt.accepted.iter().map(|(place, _)| *place).collect(),
        receipt.rejected.iter().map(|(place, _)| *place).collect(),
        receipt.unpublished.iter().map(|(place, ..)| *place).collect(),
    )
}

const GOOD: &str = r#"{"body":"good"}"#;

#[tokio::test]
async fn one_bad_record_does_not_spoil_its_neighbours() {
    let publisher = ScriptedPublisher::new([]);
    let intake = Intake::new(publisher.clone(), MessageLimits::default());
    let receipt = intake
        .accept(records(&[GOOD, "{}", GOOD, "nonsense", GOOD]), None)
        .await;
    assert_eq!(places(&receipt), (vec![0, 2, 4], vec![1, 3], vec![]));
    assert_eq!(receipt.rejected[0].1.code, RejectionCode::MissingField);
    let ids: Vec<_> = publisher.taken().iter().map(|message| message.id).collect();
    assert_eq!(
        ids,
        receipt.accepted.iter().map(|(_, id)| *id).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_request_without_a_valid_record_reaches_no_broker() {
    let publisher =
        ScriptedPublisher::new([PublishStep::Fail(PublishError::unavailable("must not be asked"))]);
    let intake = Intake::new(publisher, MessageLimits::default());
    assert_eq!(
        places(&intake.accept(records(&["{}", "[]"]), None).await),
        (vec![], vec![0, 1], vec![])
    );
}

#[tokio::test]
async fn what_the_broker_did_not_take_is_told_apart_by_place() {
    let failure = PublishError::unavailable("away");
    let publisher = ScriptedPublisher::new([PublishStep::FailAt(vec![1, 2], failure)]);
    let intake = Intake::new(publisher.clone(), MessageLimits::default());
    let receipt = intake
        .accept(records(&["{}", GOOD, GOOD, "{}", GOOD, GOOD]), None)
        .await;
    assert_eq!(places(&receipt), (vec![1, 5], vec![0, 3], vec![2, 4]));
    assert_eq!(publisher.taken().len(), 2);
    assert!(
        receipt
            .unpublished
            .iter()
            .all(|(.., error)| error.to_string().contains("away"))
    );
}

#[tokio::test]
async fn a_publisher_that_breaks_the_order_of_its_answer_makes_no_failed_message_an_accepted_one() {
    let failure = || PublishError::unavailable("away");
    for (named, lost) in [
        (vec![2, 0], vec![0, 2]),
        (vec![1, 1], vec![1]),
        (vec![3, 99, 1, 3], vec![1, 3]),
        (vec![99], vec![0, 1, 2, 3]),
    ] {
        let publisher = ScriptedPublisher::new([PublishStep::FailAt(named.clone(), failure())]);
        let intake = Intake::new(publisher, MessageLimits::default());
        let receipt = intake.accept(records(&[GOOD, GOOD, GOOD, GOOD]), None).await;
        let accepted = (0..4).filter(|place| !lost.contains(place)).collect();
        assert_eq!(places(&receipt), (accepted, vec![], lost), "{named:?}");
    }
}

#[derive(Debug)]
struct Panics;

#[async_trait::async_trait]
impl MessagePublisher for Panics {
    async fn publish(&self, _: Vec<Message>, _: Option<TraceContext>) -> Result<(), Unpublished> {
        tokio::task::yield_now().await;
        panic!("as told")
    }
}

#[tokio::test]
async fn a_publisher_that_panics_makes_its_messages_unavailable() {
    let intake = Intake::new(Arc::new(Panics), MessageLimits::default());
    let receipt = intake.accept(records(&[GOOD, "{}", GOOD]), None).await;
    assert_eq!(places(&receipt), (vec![], vec![1], vec![0, 2]));
    intake.drain().await;
}

#[tokio::test]
async fn what_belongs_to_a_request_is_held_until_the_publisher_has_answered_and_no_longer() {
    let publisher = ScriptedPublisher::new([PublishStep::TakeAfter(Duration::from_millis(50))]);
    let intake = Intake::new(publisher.clone(), MessageLimits::default());
    let held = Arc::new(());
    let publishing = intake.publish(intake.prepare(records(&[GOOD]), None), None, Arc::clone(&held));
    assert!(
        tokio::time::timeout(Duration::from_millis(5), publishing)
            .await
            .is_err()
    );
    assert_eq!(Arc::strong_count(&held), 2);
    intake.drain().await;
    assert_eq!((publisher.taken().len(), Arc::strong_count(&held)), (1, 1));
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_the_publishing() {
    let publisher = ScriptedPublisher::new([PublishStep::TakeAfter(Duration::from_millis(50))]);
    let intake = Intake::new(publisher.clone(), MessageLimits::default());
    let abandoned =
        tokio::time::timeout(Duration::from_millis(5), intake.accept(records(&[GOOD]), None)).await;
    assert!(abandoned.is_err());
    intake.drain().await;
    assert_eq!(publisher.taken().len(), 1);
}

#[tokio::test]
async fn the_trace_of_the_request_goes_to_the_publisher() {
    let publisher = ScriptedPublisher::new([]);
    let intake = Intake::new(publisher.clone(), MessageLimits::default());
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        .parse()
        .ok();
    intake.accept(records(&[GOOD]), trace).await;
    assert_eq!(publisher.traces(), [trace]);
}

#[tokio::test]
async fn a_keyed_request_that_comes_again_is_the_same_messages() {
    let intake = Intake::new(ScriptedPublisher::new([]), MessageLimits::default());
    let (one, other) = (r#"{"body":"one"}"#, r#"{"body":"other"}"#);
    let own = r#"{"body":"own","id":"019aa0c0-0000-7000-8000-000000000001"}"#;
    let send = async |intake: &Intake, bodies: &[&str], key: &str| {
        let key = IdempotencyKey::new(key.as_bytes()).unwrap();
        let prepared = intake.prepare(records(bodies), Some(&key));
        let receipt = intake.publish(prepared, None, ()).await;
        receipt.accepted.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
    };
    let first = send(&intake, &[one, other, own, one], "k").await;
    assert_eq!(first[2].to_string(), "019aa0c0-0000-7000-8000-000000000001");
    let (mut ids, again) = (first.clone(), send(&intake, &[own, one, one, other], "k").await);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "equal records of a request are several");
    assert_eq!(again, [first[2], first[0], first[3], first[1]]);
    assert_ne!(send(&intake, &[one], "l").await, first[..1]);
}

#[tokio::test]
async fn another_process_gives_a_keyed_record_the_same_token() {
    let mut tokens = Vec::new();
    for bodies in [
        &[GOOD, "{}", "{\"body\":\"other\"}"][..],
        &["{\"body\":\"other\"}"],
    ] {
        let publisher = ScriptedPublisher::new([]);
        let intake = Intake::new(publisher.clone(), MessageLimits::default());
        let key = IdempotencyKey::new(b"k").unwrap();
        let prepared = intake.prepare(records(bodies), Some(&key));
        intake.publish(prepared, None, ()).await;
        tokens.push(publisher.taken().last().unwrap().idempotency.unwrap());
    }
    assert_eq!(tokens[0].token, tokens[1].token);
    assert_eq!(tokens[0].request, tokens[1].request);
    assert_ne!(
        tokens[0].digest, tokens[1].digest,
        "one of them is a part of the other"
    );
}
