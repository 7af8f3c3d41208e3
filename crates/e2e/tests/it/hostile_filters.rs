//! Hostile filters against the real programs, over HTTP: each gets a right answer within the limits of a search, or a 4xx
//! that says what is wrong and where; on both stores, and from the command line.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use warren_e2e::bed::on_shared_servers;
use warren_e2e::command::Call;
use warren_e2e::http::Client;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

use crate::reading::all_stored;

const PATIENCE: Duration = Duration::from_secs(60);

/// What is stored: texts in which every character that means something somewhere stands, beside texts that would be found
/// in their place if it did.
const BODIES: [&str; 14] = [
    "it is 100% done",
    "it is 100 done",
    "snake_case",
    "snakeXcase",
    r"C:\temp\new",
    "C:temp",
    r#"say "hello" to 'them'; drop table messages; --"#,
    "((((deep)))) [a-z]* .* ^x$ {1,2} a|b",
    "a rabbit \u{1f407} in its warren, \u{e9} \u{c8}",
    "\u{1b}[31mred\u{1b}[0m",
    "<script>alert(1)</script> &amp; 100%25",
    "$1 ?1 :name @p %s {} $(id) `id`",
    "U+FFFD \u{fffd} and \u{202e}backwards",
    "zq",
];

/// Attributes whose keys and values mean something somewhere; each is of a message of its own, called by its place.
fn attributes() -> Vec<Value> {
    vec![
        json!({"k'ey": "v'al"}),
        json!({"$.x": 1}),
        json!({"a\"b": "c\"d"}),
        json!({"%": "%"}),
        json!({"_": "_"}),
        json!({"\u{43a}\u{43b}\u{44e}\u{447}": "\u{434}\u{430}"}),
        json!({"": "nothing"}),
        json!({"a b": " "}),
        json!({"\\": "\\\\"}),
        json!({"big": 9_007_199_254_740_993_i64}),
        json!({"big": 9_007_199_254_740_992_i64}),
        json!({"huge": 1e300}),
        json!({"least": i64::MIN}),
        json!({"none": null, "yes": true}),
        json!({"deep": {"er": {"": {"est": "x"}}}}),
        json!({"list": [1, 2]}),
        json!({"$x": "[1]"}),
    ]
}

fn named(place: usize) -> String {
    format!("odd attributes {place}")
}

async fn send(intake: SocketAddr) -> u64 {
    let bodies = BODIES.iter().map(|body| json!({"body": body, "source": "texts"}));
    let odd = attributes().into_iter().enumerate();
    let odd = odd.map(|(place, odd)| json!({"body": named(place), "source": "odd", "attributes": odd}));
    let messages: Vec<_> = bodies.chain(odd).collect();
    let request =
        Request::post(Value::from(messages.clone()).to_string()).header("content-type", "application/json");
    let answer = Client::new(intake).send(&request).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text_start());
    messages.len() as u64
}

/// Has a `warren` store what is sent to it, runs a test on it, and sees that nothing was stored or lost meanwhile.
async fn on_warren(send: impl AsyncFnOnce(SocketAddr) -> u64, test: impl AsyncFnOnce(SocketAddr, u64)) {
    let folder = DataFolder::create().unwrap();
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let messages = send(warren.address()).await;
    all_stored(messages, async || folder.count().await.unwrap()).await;
    test(warren.address(), messages).await;
    warren.stop(PATIENCE).await.unwrap();
    assert_eq!(folder.count().await.unwrap(), messages);
}

/// The same with a `query-api` beside RabbitMQ and PostgreSQL.
async fn on_query_api(send: impl AsyncFnOnce(SocketAddr) -> u64, test: impl AsyncFnOnce(SocketAddr, u64)) {
    on_shared_servers(async |bed| {
        let [mut ingest, mut worker, mut query] = bed.start_all().await.unwrap();
        let messages = send(ingest.address()).await;
        all_stored(messages, async || bed.database.count().await.unwrap()).await;
        test(query.address(), messages).await;
        for service in [&mut query, &mut ingest, &mut worker] {
            service.stop(PATIENCE).await.unwrap();
        }
        assert_eq!(bed.database.count().await.unwrap(), messages);
    })
    .await;
}

/// Sends the bytes of a target on a connection of its own, whatever they are; returns the status and the document.
async fn get(address: SocketAddr, target: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(" HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let request = [b"GET ", target, head.as_bytes()].concat();
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    // A server may answer and close before it has read everything.
    let exchange = async {
        let (_, read) = tokio::join!(writer.write_all(&request), reader.read_to_end(&mut answer));
        read
    };
    let shown = String::from_utf8_lossy(&target[..target.len().min(100)]).into_owned();
    let read = timeout(PATIENCE, exchange).await;
    let read = read.unwrap_or_else(|_| panic!("{shown}: no answer"));
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        panic!("{shown}: no answer, but {read:?}");
    };
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    let document = serde_json::from_slice(&answer[end + 4..]);
    (
        status,
        document.unwrap_or_else(|error| panic!("{shown}: {status} and no JSON: {error}")),
    )
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Turns every page; returns the bodies that are found, sorted.
async fn found(address: SocketAddr, query: &str) -> Vec<String> {
    let (mut bodies, mut after, mut reached) = (Vec::new(), String::new(), None::<String>);
    loop {
        let target = format!("/v1/messages?{query}{after}");
        let (status, page) = get(address, target.as_bytes()).await;
        assert_eq!(status, 200, "{target:.200}: {page}");
        let messages = page["messages"].as_array().unwrap().iter();
        bodies.extend(messages.map(|message| message["body"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else {
            assert_eq!(page["complete"], true, "{page}");
            bodies.sort_unstable();
            return bodies;
        };
        let further = page["reached"].as_str().unwrap().to_owned();
        assert!(
            reached.is_none_or(|reached| further <= reached),
            "{target:.200}: it comes no further"
        );
        reached = Some(further);
        assert!(!after.ends_with(next), "{target:.200}: the same page again");
        after = format!("&after={next}");
    }
}

async fn assert_found(address: SocketAddr, query: &str, mut expected: Vec<String>) {
    expected.sort_unstable();
    let bodies = found(address, query).await;
    assert_eq!(bodies, expected, "{query:.200}");
}

/// Texts are found as they are written, and nothing else for them.
async fn texts_are_taken_at_their_word(address: SocketAddr) {
    let long = "(".repeat(2_000);
    for text in [
        "%",
        "100%",
        "100%done",
        "%25",
        "_",
        "snake_case",
        "\\",
        r"C:\temp",
        r"\n",
        "'",
        "\"",
        "'them'",
        "\"hello\"",
        "'; drop table messages; --",
        "' or '1'='1",
        "1' union select null--",
        "((((",
        &long,
        "[a-z]*",
        ".*",
        "^x$",
        "(a+)+$",
        "{1,2}",
        "a|b",
        "\u{1f407}",
        "\u{e9}",
        "\u{c9}",
        "\u{c8}",
        "\u{1b}[31m",
        "\u{1b}",
        "<script>",
        "&amp;",
        "$1",
        "?1",
        ":name",
        "%s",
        "$(id)",
        "`id`",
        "\u{fffd}",
        "\u{202e}",
        "\u{feff}",
        "z",
        "zq",
        "q",
        "$",
        "-",
        "--",
        "*",
        "?",
        "#",
        "+",
        "&",
        "=",
        ";",
        "\t",
        "\r\n",
        "AND",
        "severity:error",
        "source:texts",
        "100 DONE",
    ] {
        let holds = |body: &&&str| body.to_ascii_lowercase().contains(&text.to_ascii_lowercase());
        let expected: Vec<_> = BODIES
            .iter()
            .filter(holds)
            .map(|body| (*body).to_owned())
            .collect();
        let phrase = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        assert_found(
            address,
            &format!("source=texts&q={}", encoded(&phrase)),
            expected.clone(),
        )
        .await;
        let others: Vec<_> = BODIES
            .iter()
            .map(|body| (*body).to_owned())
            .filter(|body| !expected.contains(body))
            .collect();
        let negated = format!("source=texts&q={}", encoded(&format!("-{phrase}")));
        assert_found(address, &negated, others).await;
        // Without quotes it is the same, where it is one word and nothing that has a meaning of its own.
        let meant = ["AND", "severity:error", "source:texts"].contains(&text)
            || text.contains(char::is_whitespace)
            || text.starts_with(['"', '-']);
        if !meant {
            assert_found(address, &format!("source=texts&q={}", encoded(text)), expected).await;
        }
    }
    // As curl sends it without being asked to encode anything.
    for (raw, text) in [
        ("100%25", "100%"),
        ("(((", "((("),
        ("drop+table", "drop table"),
        ("'them';", "'them';"),
    ] {
        let holds = |body: &&&str| body.contains(text);
        let expected: Vec<_> = BODIES
            .iter()
            .filter(holds)
            .map(|body| (*body).to_owned())
            .collect();
        assert_found(address, &format!("source=texts&q={raw}"), expected).await;
    }
}

/// Attributes are found by their keys and values as they are written, and nothing else for them.
async fn attributes_are_taken_at_their_word(address: SocketAddr) {
    for (query, places) in [
        (r#""k'ey"="v'al""#, &[0][..]),
        ("$.x=1", &[1]),
        ("$=1", &[]),
        (r#""a\"b"="c\"d""#, &[2]),
        (r#""%"=%"#, &[3]),
        (r#""_"=%"#, &[]),
        ("_=_", &[4]),
        ("\u{43a}\u{43b}\u{44e}\u{447}=\u{434}\u{430}", &[5]),
        (r#"""=nothing"#, &[6]),
        (r#"""="""#, &[]),
        (r#""a b"=" ""#, &[7]),
        (r#""\\"="\\\\""#, &[8]),
        ("big=9007199254740993", &[9]),
        ("big=9007199254740992", &[10]),
        ("big=9007199254740992.0", &[9, 10]),
        ("huge=1e300", &[11]),
        ("huge=1e400", &[]),
        ("huge=NaN", &[]),
        ("least=-9223372036854775808", &[12]),
        ("least=-99999999999999999999999999999999999999999", &[]),
        ("none=null", &[13]),
        (r#"none="null""#, &[]),
        ("yes=true", &[13]),
        ("deep.er..est=x", &[14]),
        ("deep.er=x", &[]),
        ("list=1", &[]),
        ("list.0=1", &[]),
        ("$x=[1]", &[16]),
        ("source:odd -big=9007199254740993 big=9007199254740992", &[10]),
        ("'=1", &[]),
        ("k=' or 1=1 --", &[]),
    ] {
        let expected = places.iter().map(|place| named(*place)).collect();
        assert_found(address, &format!("q={}", encoded(query)), expected).await;
    }
    let long = format!("{}=1", ".".repeat(2_000));
    assert_found(address, &format!("q={long}"), Vec::new()).await;
}

/// What cannot be meant is refused with the parameter and the column; `None` where no one place is at fault.
async fn what_cannot_be_meant_is_pointed_at(address: SocketAddr) {
    let parentheses = format!("/v1/messages?q={}", "(".repeat(10_000));
    let words = format!("/v1/messages?q={}", encoded(&"word ".repeat(2_000)));
    let terms = format!("/v1/messages?q={}", "a+".repeat(21));
    let patterns = format!("/v1/messages?source={}", ["a"; 101].join(","));
    let long_source = format!("/v1/messages?source=shop,{}", "a".repeat(201));
    for (target, parameter, column) in [
        (&parentheses[..], "q", Some(2_049)),
        (&words, "q", Some(2_049)),
        (&terms, "q", Some(41)),
        ("/v1/messages?q=%00", "q", Some(1)),
        ("/v1/messages?q=card%20%00", "q", Some(6)),
        ("/v1/messages?q=%", "q", Some(1)),
        ("/v1/messages?q=100%", "q", Some(4)),
        ("/v1/messages?q=100%zz", "q", Some(4)),
        ("/v1/messages?q=a%2", "q", Some(2)),
        ("/v1/messages?q=a+%ff%fe", "q", Some(3)),
        ("/v1/messages?q=%F0%9F%90", "q", Some(1)),
        ("/v1/messages?q=%ED%A0%80", "q", Some(1)),
        ("/v1/messages?q=%22card", "q", Some(1)),
        ("/v1/messages?q=card+%22", "q", Some(6)),
        ("/v1/messages?q=%22a%22%22b%22", "q", Some(4)),
        ("/v1/messages?q=a+OR+b", "q", Some(3)),
        ("/v1/messages?q=order=", "q", Some(7)),
        ("/v1/messages?q=order%3E=42", "q", Some(6)),
        ("/v1/messages?q=severity:loud", "q", Some(10)),
        ("/v1/messages?q=severity%3E=error,critical", "q", Some(11)),
        ("/v1/messages?q=source:a'--", "q", Some(8)),
        ("/v1/messages?q=id:1", "q", Some(4)),
        ("/v1/messages?q=a&q=b", "q", None),
        ("/v1/messages?q=a&%71=b", "q", None),
        ("/v1/messages?severity=error';--", "severity", Some(1)),
        ("/v1/messages?severity=%00", "severity", Some(1)),
        ("/v1/messages?severity=", "severity", None),
        ("/v1/messages?source=billing'%20or%201=1", "source", Some(1)),
        ("/v1/messages?source=shop,a..b", "source", Some(6)),
        ("/v1/messages?source=%25", "source", Some(1)),
        ("/v1/messages?source=a%zz", "source", Some(2)),
        (&patterns, "source", None),
        (&long_source, "source", Some(6)),
        ("/v1/messages?limit=0", "limit", Some(1)),
        ("/v1/messages?limit=-1", "limit", Some(1)),
        ("/v1/messages?limit=1001", "limit", Some(1)),
        ("/v1/messages?limit=99999999999999999999999999", "limit", Some(1)),
        ("/v1/messages?limit=1e2", "limit", Some(1)),
        ("/v1/messages?limit=%D9%A3", "limit", Some(1)),
        ("/v1/messages?limit=100&limit=100", "limit", None),
        ("/v1/messages?after=1", "after", Some(1)),
        ("/v1/messages?after='%20or%201=1", "after", Some(1)),
        (
            "/v1/messages?after=019aa0c0-0000-7000-8000-00000000000g",
            "after",
            Some(1),
        ),
        ("/v1/messages?order=id%20desc", "order", Some(1)),
        ("/v1/messages?from=yesterday", "from", Some(1)),
        ("/v1/messages?from=2026-02-30T00:00:00Z", "from", Some(1)),
        ("/v1/messages?from=2026-01-01", "from", Some(1)),
        ("/v1/messages?from=10000-01-01T00:00:00Z", "from", Some(1)),
        ("/v1/messages?from=-99999999999999999999d", "from", Some(1)),
        ("/v1/messages?until=0001-01-01T00:00:00Z", "until", Some(1)),
        (
            "/v1/messages?from=2026-01-01T00:00:00Z&until=2025-01-01T00:00:00Z",
            "until",
            Some(1),
        ),
        ("/v1/messages?bucket=1m", "bucket", None),
        ("/v1/messages?drop%20table=1", "drop table", None),
        ("/v1/messages?Q=card", "Q", None),
        ("/v1/messages/7", "id", Some(1)),
        ("/v1/messages/%00", "id", Some(1)),
        ("/v1/messages/..%2F..%2Fetc%2Fpasswd", "id", Some(1)),
        ("/v1/messages/019aa0c0-0000-4000-8000-000000000001", "id", Some(1)),
        (
            "/v1/messages/019aa0c0-0000-7000-8000-000000000001?neighbours=51",
            "neighbours",
            Some(1),
        ),
        (
            "/v1/messages/019aa0c0-0000-7000-8000-000000000001?neighbours=-1",
            "neighbours",
            Some(1),
        ),
        ("/v1/counts?from=-365d&bucket=1m", "bucket", Some(1)),
        (
            "/v1/counts?from=1970-01-01T00:00:00Z&until=2070-01-01T00:00:00Z&bucket=1d",
            "bucket",
            Some(1),
        ),
        ("/v1/counts?bucket=99999999999d", "bucket", Some(1)),
        ("/v1/counts?bucket=0m", "bucket", Some(1)),
        ("/v1/counts?bucket=1m;", "bucket", Some(1)),
        ("/v1/counts?source=%23.%23.%00", "source", Some(1)),
        ("/v1/sources?from=now&until=-1h", "until", Some(1)),
        ("/v1/sources?limit=1", "limit", None),
        ("/v1/tail?q=%00", "q", Some(1)),
        ("/v1/tail?q=100%", "q", Some(4)),
    ] {
        let (status, problem) = get(address, target.as_bytes()).await;
        let told = (status, &problem["parameter"], &problem["column"]);
        assert_eq!(
            told,
            (400, &json!(parameter), &json!(column)),
            "{target:.200}: {problem}"
        );
        let length = problem["length"].as_u64();
        assert_eq!(
            length.is_some_and(|length| length > 0),
            column.is_some(),
            "{target:.200}: {problem}"
        );
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains(parameter) || parameter == "id",
            "{target:.200}: {detail}"
        );
        assert!(
            !problem["hint"].as_str().unwrap().is_empty(),
            "{target:.200}: {problem}"
        );
        assert!(problem.to_string().len() < 2_000, "{target:.200}: {problem}");
    }
    // What is no address at all is refused before anybody knows what it asks for.
    let huge = format!("/v1/messages?q={}", "x".repeat(1 << 20));
    for (target, statuses) in [
        (huge.as_bytes(), &[414, 431][..]),
        (b"/v1/messages?q=\xff\xfe", &[400]),
        (b"/v1/messages?q=a b", &[400]),
        (b"/v1/messages?q=a\0b", &[400]),
    ] {
        let (status, problem) = get(address, target).await;
        let shown = String::from_utf8_lossy(&target[..target.len().min(60)]);
        assert!(statuses.contains(&status), "{shown}: {status} {problem}");
    }
}

/// What is odd, and can be answered, is.
async fn what_is_odd_is_answered(address: SocketAddr, messages: u64) {
    let count = async |query: &str| found(address, query).await.len() as u64;
    for (query, expected) in [
        ("", messages),
        ("&&&", messages),
        ("q=", messages),
        ("q=+++", messages),
        ("limit=0000000001", messages),
        ("from=1970-01-01T00:00:00Z&until=2261-12-31T23:59:59Z", messages),
        ("from=-4294967295w", messages),
        ("from=-365d&until=now", messages),
        ("from=2160-01-01T00:00:00Z", 0),
        ("until=-36500d&from=1970-01-01T00:00:00Z", 0),
        ("after=ffffffff-ffff-ffff-ffff-ffffffffffff", messages),
        ("after=00000000-0000-0000-0000-000000000000", 0),
        (
            "after=00000000-0000-0000-0000-000000000000&order=oldest",
            messages,
        ),
        ("after=ffffffff-ffff-ffff-ffff-ffffffffffff&order=oldest", 0),
        ("source=%23.%23.%23.%23.%23", messages),
        ("source=*.*.*.*", 0),
        ("severity=all,all,debug%2B", messages),
    ] {
        // The range of 36500 days before now is empty where it begins before 1970, which is wrong and not odd.
        if query.starts_with("until=-36500d") {
            let (status, problem) = get(address, format!("/v1/messages?{query}").as_bytes()).await;
            assert_eq!(
                (status, &problem["parameter"]),
                (400, &json!("until")),
                "{problem}"
            );
            continue;
        }
        assert_eq!(count(query).await, expected, "{query}");
    }
    let never = "/v1/messages/019aa0c0-0000-7000-8000-000000000001";
    assert_eq!(get(address, never.as_bytes()).await.0, 404);
    for range in [
        "from=-365d",
        "from=1970-01-01T00:00:00Z&until=2261-01-01T00:00:00Z",
    ] {
        let (status, counts) = get(address, format!("/v1/counts?{range}").as_bytes()).await;
        assert_eq!(status, 200, "{counts}");
        let buckets = counts["buckets"].as_array().unwrap().iter();
        let totals = buckets.flat_map(|bucket| bucket["counts"].as_object().unwrap().values());
        assert_eq!(
            totals.map(|total| total.as_u64().unwrap()).sum::<u64>(),
            messages,
            "{counts}"
        );
        let (status, sources) = get(address, format!("/v1/sources?{range}").as_bytes()).await;
        assert_eq!(
            (status, sources["sources"].as_array().unwrap().len()),
            (200, 2),
            "{sources}"
        );
    }
}

async fn every_filter_is_answered_or_refused(address: SocketAddr, messages: u64) {
    texts_are_taken_at_their_word(address).await;
    attributes_are_taken_at_their_word(address).await;
    what_cannot_be_meant_is_pointed_at(address).await;
    what_is_odd_is_answered(address, messages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_filter_gets_a_right_answer_or_is_pointed_at_by_warren() {
    on_warren(send, every_filter_is_answered_or_refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_filter_gets_a_right_answer_or_is_pointed_at_by_the_query_api() {
    on_query_api(send, every_filter_is_answered_or_refused).await;
}

/// How many messages there are to look through.
const MANY: usize = 40_000;

async fn send_many(intake: SocketAddr) -> u64 {
    let mut client = Client::new(intake);
    for part in 0..4 {
        let lines: String = (0..MANY / 4)
            .map(|n| {
                format!(
                    "{{\"body\":\"request {part}-{n} of u-{} took {} ms\"}}\n",
                    n % 97,
                    n % 1_000
                )
            })
            .collect();
        let request = Request::post(lines).header("content-type", "application/x-ndjson");
        assert_eq!(client.send(&request).await.unwrap().status, 202);
    }
    MANY as u64
}

/// Texts too short, or too strange, for any index: an answer that has not looked at everything says how far it has come, and
/// the next one goes on from there to the end.
async fn what_no_index_helps_is_found_page_by_page(address: SocketAddr, _: u64) {
    for text in [
        "x",
        "zq",
        "%",
        "_",
        "((((",
        "\u{1f407}",
        ".*",
        "-request",
        "-u",
        "absent=1",
    ] {
        let query = format!("q={}", encoded(text));
        assert_eq!(found(address, &query).await, Vec::<String>::new(), "{text}");
    }
    let bodies = found(address, &format!("q={}", encoded("3-77 u"))).await;
    let expected = (0..MANY / 4).filter(|n| n.to_string().starts_with("77"));
    assert_eq!(bodies.len(), expected.count(), "{bodies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_index_helps_is_found_among_many_by_warren() {
    on_warren(send_many, what_no_index_helps_is_found_page_by_page).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_index_helps_is_found_among_many_by_the_query_api() {
    on_query_api(send_many, what_no_index_helps_is_found_page_by_page).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_text_on_the_command_line_is_found_or_pointed_at_and_its_exit_code_says_which() {
    on_warren(send, texts_on_the_command_line_are_found_or_pointed_at).await;
}

async fn texts_on_the_command_line_are_found_or_pointed_at(address: SocketAddr, _: u64) {
    let to = format!("http://{address}");
    let asked = async |text: &str| {
        let call = Call::of("warren", &["query", "--json", "--to", &to, "--", text]).unwrap();
        call.run().await.unwrap()
    };

    for (text, found) in [
        ("100%", 2),
        ("snake_case", 1),
        ("C:\\temp", 1),
        ("((((", 1),
        ("'them';", 1),
        ("\u{1f407}", 1),
    ] {
        let ended = asked(text).await;
        assert_eq!(
            (ended.code, ended.output.lines().count()),
            (Some(0), found),
            "{text}: {}",
            ended.said
        );
    }
    let (parentheses, huge) = ("(".repeat(10_000), "word ".repeat(20_000));
    for (text, column, length) in [
        ("card \"declined", 6, 9),
        ("a OR b", 3, 2),
        ("\u{1f407} order>=42", 8, 2),
        ("severity:loud", 10, 4),
        (&parentheses, 2_049, 40),
        (&huge, 2_049, 40),
    ] {
        let ended = asked(text).await;
        assert_eq!(
            (ended.code, ended.output.as_str()),
            (Some(2), ""),
            "{text:.80}: {}",
            ended.said
        );
        let lines: Vec<_> = ended.said.lines().collect();
        assert!(lines[0].contains(&format!("column {column}:")), "{}", ended.said);
        let (shown, carets) = (lines[2].chars(), lines[3]);
        assert_eq!(carets.trim_start(), "^".repeat(length), "{}", ended.said);
        let pointed: String = shown.skip(carets.len() - length).take(length).collect();
        let meant: String = text.chars().skip(column - 1).take(length).collect();
        assert_eq!(pointed, meant, "{}", ended.said);
        assert!(
            lines[2..].iter().all(|line| line.chars().count() < 100),
            "{}",
            ended.said
        );
    }
}
