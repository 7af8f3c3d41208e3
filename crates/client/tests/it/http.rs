//! Over HTTP: to the real server, and to one that answers as a test tells it.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use warren_adapter_conformance::samples::{extremes, message, messages};
use warren_adapter_conformance::scripted::{PublishStep, ScriptedPublisher};
use warren_adapter_http::{Health, HttpConfig, IntakeRoutes, Routes, Server};
use warren_client::{
    Compression, HttpPublisher, HttpPublisherBuilder, Logger, Message, MessageLimits, MessagePublisher,
    PublishError, Severity,
};
use warren_domain::TraceContext;
use warren_pipeline::{Intake, IntakeConfig};

use crate::proxy::Proxy;
use crate::support::{Gate, PATIENCE, counts};

fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
        .clone()
}

/// The server of Warren, with a publisher behind it that follows a script.
pub(crate) struct Warren {
    pub(crate) address: SocketAddr,
    pub(crate) behind: Arc<ScriptedPublisher>,
    _serving: AbortOnDropHandle<()>,
}

impl Warren {
    pub(crate) async fn start(script: impl IntoIterator<Item = PublishStep>) -> Self {
        Self::with(script, IntakeConfig::default(), HttpConfig::default()).await
    }

    async fn with(
        script: impl IntoIterator<Item = PublishStep>,
        intake: IntakeConfig,
        http: HttpConfig,
    ) -> Self {
        let behind = ScriptedPublisher::new(script);
        let (address, serving) = serve(Arc::clone(&behind) as _, &intake, http).await;
        Self {
            address,
            behind,
            _serving: serving,
        }
    }

    fn publisher(&self) -> HttpPublisherBuilder {
        to(self.address)
    }
}

pub(crate) async fn serve(
    behind: Arc<dyn MessagePublisher>,
    intake: &IntakeConfig,
    http: HttpConfig,
) -> (SocketAddr, AbortOnDropHandle<()>) {
    let http = HttpConfig {
        listen: "127.0.0.1:0".to_owned(),
        ..http
    };
    let routes = Routes {
        intake: Some(IntakeRoutes::new(
            Intake::new(behind, intake.message_limits()),
            &http,
            intake,
        )),
        ..Routes::bare("test", "0", Health::new(Vec::new()), metrics())
    };
    let server = Server::bind(&http).await.unwrap();
    let address = server.local_addr();
    let serving = tokio::spawn(async move {
        server.serve(routes, CancellationToken::new()).await;
    });
    (address, AbortOnDropHandle::new(serving))
}

pub(crate) fn to(address: SocketAddr) -> HttpPublisherBuilder {
    HttpPublisher::builder(format!("http://{address}"))
        .retry_pauses(Duration::from_millis(5), Duration::from_millis(50))
}

/// What arrived is what was sent, but for the time at which it was received.
fn assert_arrived(warren: &Warren, sent: &[Message]) {
    let taken: Vec<_> = warren.behind.taken();
    let taken: Vec<_> = taken
        .into_iter()
        .map(|message| Message {
            received_at: sent[0].received_at,
            ..message
        })
        .collect();
    let sent: Vec<_> = sent
        .iter()
        .map(|message| Message {
            received_at: sent[0].received_at,
            ..message.clone()
        })
        .collect();
    warren_adapter_conformance::samples::assert_same_messages(&taken, &sent);
}

/// One letter for each message: published, unavailable, unroutable (x), refused.
fn letters(outcome: &Result<(), warren_client::Unpublished>, count: usize) -> String {
    let mut letters = vec!['p'; count];
    for (place, error) in outcome.as_ref().err().map_or(&[][..], |all| &all.errors) {
        letters[*place] = match error {
            PublishError::Unavailable { .. } => 'u',
            PublishError::Unroutable { .. } => 'x',
            PublishError::Refused { .. } => 'r',
        };
    }
    letters.into_iter().collect()
}

fn unavailable() -> PublishError {
    PublishError::unavailable("as told")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_arrives_equal_plain_and_compressed() {
    for compression in [Compression::None, Compression::Zstd, Compression::Gzip] {
        let warren = Warren::start([]).await;
        let publisher = warren
            .publisher()
            .compression(compression)
            .compress_from(0)
            .build()
            .unwrap();
        let mut sent = extremes();
        sent.extend(messages(1_000));
        let trace: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .unwrap();
        publisher.publish(sent.clone(), Some(trace)).await.unwrap();
        assert_arrived(&warren, &sent);
        let traces = warren.behind.traces();
        assert!(
            traces
                .iter()
                .all(|seen| seen.unwrap().trace_id() == trace.trace_id())
        );
        publisher.publish(Vec::new(), None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_503_is_waited_out_and_sent_again_with_the_same_ids() {
    let away = || PublishStep::Fail(unavailable());
    let warren = Warren::start([away()]).await;
    let publisher = warren.publisher().build().unwrap();
    let sent = messages(3);
    let began = Instant::now();
    publisher.publish(sent.clone(), None).await.unwrap();
    // Warren asks for a second at least, by Retry-After.
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    assert_arrived(&warren, &sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_partial_failure_only_the_rest_is_sent_again() {
    let warren = Warren::start([PublishStep::FailAt(vec![0, 3], unavailable())]).await;
    let publisher = warren.publisher().build().unwrap();
    let sent = messages(5);
    publisher.publish(sent.clone(), None).await.unwrap();
    // A scripted publisher keeps what it takes as often as it takes it.
    assert_arrived(&warren, &sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verdicts_behind_the_server_come_through() {
    let refused = || PublishError::Refused {
        reason: "never".to_owned(),
    };
    let unroutable = || PublishError::Unroutable {
        reason: "nobody".to_owned(),
    };
    let script = [
        PublishStep::FailAt(vec![1], refused()),
        PublishStep::FailAt(vec![2], unroutable()),
        PublishStep::Fail(unavailable()),
    ];
    let warren = Warren::start(script).await;
    let publisher = warren
        .publisher()
        .deadline(Duration::from_millis(500))
        .build()
        .unwrap();
    for expected in ["prp", "ppx"] {
        let outcome = publisher.publish(messages(3), None).await;
        assert_eq!(letters(&outcome, 3), expected);
    }
    // The server wants to be left alone for a second: said at once, without another request.
    let outcome = publisher.publish(messages(3), None).await;
    assert_eq!(letters(&outcome, 3), "uuu");
    let said = outcome.unwrap_err().errors[0].1.to_string();
    assert!(said.contains("asked to be left alone"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_does_not_take_is_refused_and_its_neighbours_are_published() {
    let warren = Warren::start([]).await;
    let publisher = warren.publisher().build().unwrap();
    let limit = MessageLimits::default().body_bytes;
    let mut sent = messages(300);
    // More than the hundred faults that one answer tells.
    for place in 0..150 {
        sent[place * 2] = message(Severity::Info, "large", &"x".repeat(limit + 1));
    }
    let publishing = publisher.publish(sent.clone(), None).await;
    assert_eq!(letters(&publishing, 300), "rp".repeat(150));
    let said = publishing.unwrap_err().errors[149].1.to_string();
    assert!(
        said.contains("/body") && said.contains("over the limit"),
        "{said}"
    );
    let ids: HashSet<_> = warren.behind.taken().iter().map(|message| message.id).collect();
    assert_eq!(ids.len(), 150);

    // None of it.
    let bad: Vec<_> = sent.iter().step_by(2).cloned().collect();
    let outcome = publisher.publish(bad, None).await;
    assert_eq!(letters(&outcome, 150), "r".repeat(150));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_the_servers_limits_is_halved_until_it_fits() {
    let intake = IntakeConfig {
        max_messages: 10,
        ..IntakeConfig::default()
    };
    let warren = Warren::with([], intake, HttpConfig::default()).await;
    let publisher = warren.publisher().build().unwrap();
    let sent = messages(95);
    publisher.publish(sent.clone(), None).await.unwrap();
    assert_arrived(&warren, &sent);

    let http = HttpConfig {
        max_request: "20KiB".parse().unwrap(),
        ..HttpConfig::default()
    };
    let warren = Warren::with([], IntakeConfig::default(), http).await;
    let publisher = warren.publisher().build().unwrap();
    let mut sent = messages(200);
    sent[77] = message(Severity::Error, "large", &"x".repeat(30_000));
    let outcome = publisher.publish(sent.clone(), None).await;
    assert_eq!(
        letters(&outcome, 200),
        format!("{}r{}", "p".repeat(77), "p".repeat(122))
    );
    let large = sent.remove(77);
    assert_arrived(&warren, &sent);
    let alone = publisher.publish(vec![large], None).await;
    assert!(alone.unwrap_err().errors[0].1.to_string().contains("413"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_split_by_the_limits_of_the_publisher() {
    let warren = Warren::start([PublishStep::Take, PublishStep::Fail(unavailable())]).await;
    let publisher = warren.publisher().request_messages(10).build().unwrap();
    let sent = messages(35);
    publisher.publish(sent.clone(), None).await.unwrap();
    assert_arrived(&warren, &sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_midway_is_made_again_and_the_ids_stay() {
    let gate = Gate::closed();
    let (address, _serving) = serve(
        Arc::clone(&gate) as _,
        &IntakeConfig::default(),
        HttpConfig::default(),
    )
    .await;
    let proxy = Proxy::to(address.to_string()).await;
    let publisher = Arc::new(to(proxy.address).build().unwrap());
    let sent = messages(3);
    let publishing = {
        let (publisher, sent) = (Arc::clone(&publisher), sent.clone());
        tokio::spawn(async move { publisher.publish(sent, None).await })
    };
    // The first answer is cut off; what it is about may become durable, and is sent a second time.
    gate.called(1).await;
    proxy.cut();
    gate.called(2).await;
    gate.let_through();
    publishing.await.unwrap().unwrap();
    let calls = gate.calls();
    assert_eq!(calls, [calls[0].clone(), calls[0].clone()]);
    assert_eq!(
        calls[0],
        sent.iter().map(|message| message.id).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_and_nobody_answering_are_unavailable_in_time() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    let publisher = || to(address).deadline(Duration::from_millis(300)).build().unwrap();
    let hanging = publisher();
    let began = Instant::now();
    let outcome = hanging.publish(messages(2), None).await;
    assert_eq!(letters(&outcome, 2), "uu");
    assert!(
        outcome.unwrap_err().errors[0]
            .1
            .to_string()
            .contains("did not answer within")
    );
    drop(free);
    let outcome = publisher().publish(messages(2), None).await;
    let said = outcome.unwrap_err().errors[1].1.to_string();
    assert!(
        said.contains("cannot connect (") && said.contains("refused"),
        "{said}"
    );
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// A server that gives the answers it is told to give, one a request, and notes the requests.
struct Told {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<(Instant, String)>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Told {
    async fn start(answers: impl IntoIterator<Item = String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&requests);
        let mut answers: VecDeque<String> = answers.into_iter().collect();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = read_request(&mut stream).await;
                noted.lock().unwrap().push((Instant::now(), request));
                let answer = answers.pop_front().unwrap_or_else(|| receipt(1));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self {
            address,
            requests,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    fn requests(&self) -> Vec<(Instant, String)> {
        self.requests.lock().unwrap().clone()
    }
}

async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(str::to_owned)
            });
            if body.len() >= length.unwrap().parse::<usize>().unwrap() {
                return text;
            }
        }
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

fn receipt(accepted: usize) -> String {
    answer(
        "202 Accepted",
        "",
        &format!(r#"{{"accepted":{accepted},"rejected":0,"errors":[]}}"#),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_honoured_as_seconds_and_as_a_date() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    let server = Told::start([
        answer("429 Too Many Requests", "retry-after: 1\r\n", ""),
        answer(
            "503 Service Unavailable",
            &format!("Retry-After: {date}\r\n"),
            "busy",
        ),
    ])
    .await;
    let publisher = to(server.address).build().unwrap();
    publisher.publish(messages(1), None).await.unwrap();
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    let (first, second) = (requests[1].0 - requests[0].0, requests[2].0 - requests[0].0);
    assert!((1.0..2.0).contains(&first.as_secs_f64()), "{first:?}");
    // A date has whole seconds.
    assert!((1.8..4.0).contains(&second.as_secs_f64()), "{second:?}");
    let body = |request: &str| request.split_once("\r\n\r\n").unwrap().1.to_owned();
    assert_eq!(body(&requests[0].1), body(&requests[2].1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_can_mend_is_unavailable_at_once_with_the_servers_words() {
    for status in ["401 Unauthorized", "403 Forbidden", "404 Not Found", "302 Found"] {
        let problem = answer(
            status,
            "location: http://127.0.0.1:1/\r\n",
            r#"{"title":"t","detail":"no such key"}"#,
        );
        let server = Told::start([problem]).await;
        let publisher = to(server.address).build().unwrap();
        let outcome = publisher.publish(messages(1), None).await;
        assert_eq!(letters(&outcome, 1), "u");
        let said = outcome.unwrap_err().errors[0].1.to_string();
        assert!(said.contains(status) && said.contains("no such key"), "{said}");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_sent_and_never_shown() {
    let server = Told::start([answer("401 Unauthorized", "", "")]).await;
    let base = format!("http://ann:secret@{}/warren/", server.address);
    let publisher = HttpPublisher::builder(base)
        .header("x-key", "hidden")
        .build()
        .unwrap();
    let error = publisher.publish(messages(1), None).await.unwrap_err();
    let shown = format!("{publisher:?} {error:?} {}", error.errors[0].1);
    assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
    let request = server.requests()[0].1.to_ascii_lowercase();
    assert!(
        request.starts_with("post /warren/v1/messages http/1.1"),
        "{request}"
    );
    assert!(
        request.contains("authorization: basic yw5uonnly3jlda=="),
        "{request}"
    );
    assert!(request.contains("x-key: hidden"), "{request}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_answer_is_not_read_to_its_end() {
    let endless = format!(
        "HTTP/1.1 202 Accepted\r\ncontent-length: 99999999\r\n\r\n{}",
        " ".repeat(3 << 20)
    );
    let server = Told::start([endless]).await;
    let publisher = to(server.address).build().unwrap();
    let outcome = publisher.publish(messages(1), None).await;
    assert_eq!(letters(&outcome, 1), "u");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logger_over_http_loses_nothing_to_a_server_that_comes_and_goes() {
    let script = (0..6).map(|n| match n % 3 {
        0 => PublishStep::Fail(unavailable()),
        1 => PublishStep::FailAt(vec![0], unavailable()),
        _ => PublishStep::Take,
    });
    let warren = Warren::start(script).await;
    let proxy = Proxy::to(warren.address.to_string()).await;
    let publisher = to(proxy.address)
        .deadline(Duration::from_millis(1_500))
        .build()
        .unwrap();
    let logger = Logger::builder()
        .retry_pauses(Duration::from_millis(10), Duration::from_millis(100))
        .start(publisher)
        .unwrap();
    for n in 0..500 {
        logger.log(Severity::ALL[n % 5], format!("message {n}"));
        if n == 250 {
            proxy.cut();
        }
    }
    let report = logger.close(PATIENCE).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(
        report.stats.published,
        counts(Severity::ALL.map(|severity| (severity, 100)))
    );
    let ids: HashSet<_> = warren.behind.taken().iter().map(|message| message.id).collect();
    assert_eq!(ids.len(), 500);
}
