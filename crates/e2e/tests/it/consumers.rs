//! The consumers count each message once, whatever is killed, and print what they have counted.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use warren_e2e::bed::{Bed, on_servers, on_shared_servers};
use warren_e2e::counting::{Line, last_line, lines, start_consuming, wait_for_line};
use warren_e2e::environment;
use warren_e2e::http::Client;
use warren_e2e::metrics::Metrics;
use warren_e2e::mix::{Counts, Mix};
use warren_e2e::process::Service;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;
use warren_test_servers::PrivateRabbit;

use crate::alone;

const SOON: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);

/// The shipped groups, and what each of them counts.
const GROUPS: [(&str, &[&str]); 4] = [
    ("all", &["debug", "info", "warning", "error", "critical"]),
    ("debug-info", &["debug", "info"]),
    ("critical", &["critical"]),
    ("error", &["error"]),
];

fn sum(counts: &Counts) -> u64 {
    counts.iter().sum()
}

async fn consuming(bed: &Bed, books: &Path, arguments: &str) -> Service {
    let mut consumer = bed.consumer(books, arguments).unwrap();
    start_consuming(&mut consumer).await.unwrap();
    consumer
}

async fn groups(bed: &Bed, books: &Path) -> Vec<Service> {
    let mut consumers = Vec::new();
    for (name, _) in GROUPS {
        consumers.push(consuming(bed, books, &format!("--group {name}")).await);
    }
    consumers
}

/// Waits until a consumer prints exactly these counts.
async fn counted(consumer: &Service, counts: Counts) -> Line {
    let what = format!("{counts:?}");
    let line = wait_for_line(consumer, &what, 0, |line| line.received() == counts);
    line.await.unwrap()
}

/// Fails unless nothing of a group is left in the broker; asked when its consumers have ended.
async fn nothing_waits(bed: &Bed, group: &str) {
    let left = bed.topology.take_rest(&format!("group.{group}")).await;
    assert_eq!(left.unwrap(), 0, "{group}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_group_counts_its_severities_and_tells_the_same_numbers_everywhere() {
    on_shared_servers(async |bed| {
        let books = tempfile::tempdir().unwrap();
        let mix = Mix::new(31, 3_000, 100);
        let mut ingest = bed.ingest().unwrap();
        ingest.start_ready().await.unwrap();
        let mut consumers = groups(bed, books.path()).await;
        mix.send_all(ingest.address()).await.unwrap();
        for ((name, severities), consumer) in GROUPS.iter().zip(&mut consumers) {
            let expected = mix.counts(severities, "");
            let line = counted(consumer, expected).await;
            assert_eq!(
                (line.json()["group"].as_str(), line.total()),
                (Some(*name), sum(&expected))
            );
            let metrics = Metrics::scrape(consumer.address()).await.unwrap();
            for metric in ["messages", "consumed_messages"] {
                let metric = format!("warren_group_{metric}_total");
                for (severity, count) in GROUPS[0].1.iter().zip(expected) {
                    let series = format!("{metric}{{group=\"{name}\",severity=\"{severity}\"}}");
                    assert_eq!(metrics.value(&series), Some(count as f64), "{series}");
                }
                assert!(metrics.has_help(&metric), "{metric}");
            }
            // Repetitions may be still on their way; the last line has them all.
            consumer.stop(SOON).await.unwrap();
            nothing_waits(bed, name).await;
            let last = last_line(consumer).unwrap();
            assert_eq!((last.state(), last.received()), ("stopped", expected));
        }
        let duplicates = last_line(&consumers[0]).unwrap().duplicates();
        assert_eq!(
            duplicates,
            mix.repeated(),
            "nothing failed, so only the repeated ones came twice"
        );
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_one_group_share_its_messages_and_tell_the_same_counts() {
    on_shared_servers(async |bed| {
        let books = tempfile::tempdir().unwrap();
        let mix = Mix::new(32, 4_000, 50);
        let mut ingest = bed.ingest().unwrap();
        ingest.start_ready().await.unwrap();
        let one = consuming(bed, books.path(), "--group all").await;
        let other = consuming(bed, books.path(), "--group all").await;
        mix.send_all(ingest.address()).await.unwrap();
        let expected = mix.counts(GROUPS[0].1, "");
        let mut consumed = 0;
        for mut consumer in [one, other] {
            counted(&consumer, expected).await;
            let metrics = Metrics::scrape(consumer.address()).await.unwrap();
            let own = metrics.sum("warren_group_consumed_messages_total");
            assert!(own > 0, "one of them got nothing");
            assert_eq!(metrics.sum("warren_group_messages_total"), sum(&expected));
            consumed += own;
            consumer.stop(SOON).await.unwrap();
            assert_eq!(last_line(&consumer).unwrap().received(), expected);
        }
        assert_eq!(consumed, sum(&expected));
        nothing_waits(bed, "all").await;
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_killed_in_the_middle_goes_on_where_it_was() {
    on_shared_servers(async |bed| {
        let books = tempfile::tempdir().unwrap();
        let mix = Mix::new(33, 20_000, 200);
        let mut ingest = bed.ingest().unwrap();
        ingest.start_ready().await.unwrap();
        let mut consumer = consuming(bed, books.path(), "--group all").await;
        let (progress, mut accepted) = watch::channel(0);
        let (address, sent) = (ingest.address(), mix.clone());
        let sending = tokio::spawn(async move { sent.send(address, &progress).await });
        for percent in [30, 60] {
            let reached = mix.share(percent);
            accepted.wait_for(|accepted| *accepted >= reached).await.unwrap();
            consumer.kill().await.unwrap();
            consumer.start().await.unwrap();
        }
        sending.await.unwrap().unwrap();
        let expected = mix.counts(GROUPS[0].1, "");
        counted(&consumer, expected).await;
        consumer.stop(SOON).await.unwrap();
        nothing_waits(bed, "all").await;
        let last = last_line(&consumer).unwrap();
        assert_eq!(last.received(), expected);
        assert!(last.duplicates() >= mix.repeated(), "{last:?}");
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_ends_by_itself_when_nothing_comes_or_enough_is_counted() {
    on_shared_servers(async |bed| {
        let books = tempfile::tempdir().unwrap();
        let mix = Mix::new(34, 1_000, 20);
        let mut ingest = bed.ingest().unwrap();
        ingest.start_ready().await.unwrap();
        // The queue of the group is there from its first consumer on.
        let run = async |arguments: &str| {
            let mut consumer = bed.consumer(books.path(), arguments).unwrap();
            consumer.spawn().unwrap();
            let status = consumer.wait(SOON).await.unwrap();
            assert_eq!(status.code(), Some(0), "{}", consumer.log().unwrap());
            last_line(&consumer).unwrap()
        };
        let nothing = run("--group all --until-idle 300ms").await;
        assert_eq!((nothing.state(), nothing.total()), ("stopped", 0));
        mix.send_all(ingest.address()).await.unwrap();
        let some = run("--group all --count 250").await;
        assert!((250..1_000).contains(&some.total()), "{some:?}");
        // It takes up where the other has stopped.
        let all = run("--group all --until-idle 1s").await;
        assert_eq!(all.received(), mix.counts(GROUPS[0].1, ""));
        nothing_waits(bed, "all").await;
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_counts_one_message_at_a_time_spends_no_delivery_of_the_others() {
    // More than the broker's delivery limit of twenty.
    const RUNS: u64 = 22;
    on_shared_servers(async |bed| {
        let books = tempfile::tempdir().unwrap();
        let mut ingest = bed.ingest().unwrap();
        ingest.start_ready().await.unwrap();
        let mut first = consuming(bed, books.path(), "--group all").await;
        first.stop(SOON).await.unwrap();
        let mut client = Client::new(ingest.address());
        for _ in 0..RUNS {
            // A request of its own is a packet of its own.
            let answer = client.send(&Request::post(r#"{"body":"one"}"#)).await.unwrap();
            assert_eq!(answer.status, 202);
        }
        for run in 1..=RUNS {
            let mut consumer = bed.consumer(books.path(), "--group all --count 1").unwrap();
            consumer.spawn().unwrap();
            consumer.wait(SOON).await.unwrap();
            assert_eq!(last_line(&consumer).unwrap().total(), run);
        }
        nothing_waits(bed, "all").await;
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_does_not_keep_the_program_from_ending() {
    on_shared_servers(async |bed| {
        let books = tempfile::tempdir().unwrap();
        let (_reader, mut writer) = std::io::pipe().unwrap();
        // A pipe's default capacity: not one byte more fits into it.
        writer.write_all(&[b' '; 1 << 16]).unwrap();
        let mut child = tokio::process::Command::new(environment::binary("severity-consumer").unwrap())
            .args(["--group", "all", "--json"])
            .env("WARREN_AMQP__URL", bed.topology.url())
            .env("WARREN_AMQP__PREFIX", bed.topology.prefix())
            .env("WARREN_TALLY__PATH", books.path())
            .stdout(writer)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let joined = async {
            while bed.topology.waiting("group.all").await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(SOON, joined).await.unwrap();
        let pid = child.id().unwrap().to_string();
        let told = std::process::Command::new("kill").args(["-TERM", &pid]).status();
        assert!(told.unwrap().success());
        let status = timeout(SOON, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(1), "it says that nobody reads");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_begins_at_the_oldest_message_or_at_the_next_one() {
    on_shared_servers(async |bed| {
        let books = tempfile::tempdir().unwrap();
        let (before, after) = (Mix::new(35, 500, 50), Mix::new(36, 300, 50));
        let mut ingest = bed.ingest().unwrap();
        ingest.start_ready().await.unwrap();
        for group in ["all", "error"] {
            let mut first = consuming(bed, books.path(), &format!("--group {group}")).await;
            first.stop(SOON).await.unwrap();
        }
        before.send_all(ingest.address()).await.unwrap();
        let mut old = consuming(bed, books.path(), "--group all --from-start").await;
        let mut new = consuming(bed, books.path(), "--group error --new").await;
        after.send_all(ingest.address()).await.unwrap();
        let (mut both, more) = (before.counts(GROUPS[0].1, ""), after.counts(GROUPS[0].1, ""));
        both.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        counted(&old, both).await;
        counted(&new, after.counts(&["error"], "")).await;
        for consumer in [&mut old, &mut new] {
            consumer.stop(SOON).await.unwrap();
        }
        assert_eq!(last_line(&new).unwrap().received(), after.counts(&["error"], ""));
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_ones_own_counts_the_sources_and_severities_it_names() {
    on_shared_servers(async |bed| {
        let books = tempfile::tempdir().unwrap();
        let mix = Mix::new(37, 2_000, 50);
        let mut ingest = bed.ingest().unwrap();
        ingest.start_ready().await.unwrap();
        let arguments = "--name billing --severities error,critical --source billing.#";
        let mut billing = consuming(bed, books.path(), arguments).await;
        mix.send_all(ingest.address()).await.unwrap();
        let expected = mix.counts(&["error", "critical"], "billing");
        counted(&billing, expected).await;
        let metrics = Metrics::scrape(billing.address()).await.unwrap();
        assert_eq!(
            metrics.sum("warren_group_unselected_total"),
            0,
            "the broker selects"
        );
        billing.stop(SOON).await.unwrap();
        nothing_waits(bed, "billing").await;
        assert_eq!(last_line(&billing).unwrap().received(), expected);
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_command_line_ends_with_2_and_says_what_is_allowed() {
    for (arguments, told) in [
        ("", "all, debug-info, critical, error"),
        ("--group errors", "all, debug-info, critical, error"),
        (
            "--name billing --severities loud",
            "debug, info, warning, error, critical",
        ),
        (
            "--name billing --severities ,",
            "debug, info, warning, error, critical",
        ),
        ("--name billing --severities error --source a..b", "a..b"),
        ("--group all --name billing", "--name"),
    ] {
        let words = arguments.split_whitespace();
        let mut wrong = words.fold(Service::new("severity-consumer").unwrap(), Service::argument);
        wrong.spawn().unwrap();
        let status = wrong.wait(SOON).await.unwrap();
        let said = wrong.log().unwrap();
        assert_eq!(status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(told), "{arguments}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_books_that_cannot_be_is_a_failure_that_names_the_setting() {
    let mut consumer = Service::new("severity-consumer")
        .unwrap()
        .argument("--group")
        .argument("all")
        .setting("WARREN_TALLY__PATH", "/proc/self/task/books");
    consumer.spawn().unwrap();
    let status = consumer.wait(SOON).await.unwrap();
    let said = consumer.log().unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("tally.path") && said.contains("/proc/self/task/books"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_the_program_quietly() {
    on_shared_servers(async |bed| {
        let books = tempfile::tempdir().unwrap();
        let program = environment::binary("severity-consumer").unwrap();
        let command = format!(
            "{} --group all --json --every 50ms | head -n 2; exit ${{PIPESTATUS[0]}}",
            program.display()
        );
        let run = tokio::process::Command::new("bash")
            .arg("-c")
            .arg(command)
            .env("WARREN_AMQP__URL", bed.topology.url())
            .env("WARREN_AMQP__PREFIX", bed.topology.prefix())
            .env("WARREN_TALLY__PATH", books.path())
            .kill_on_drop(true)
            .output();
        let output = timeout(SOON, run).await.unwrap().unwrap();
        let (out, words) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(
            (output.status.code(), out.lines().count()),
            (Some(0), 2),
            "{out}\n{words}"
        );
        assert!(!words.contains("panicked") && !words.contains("ERROR"), "{words}");
    })
    .await;
}

/// Asks a `warren` what each of its groups has counted, until they all have what they should.
async fn counted_in_process(warren: &Service, mix: &Mix) -> Vec<u64> {
    let mut client = Client::new(warren.address());
    let counting = async {
        loop {
            let answer = client
                .send(&Request::get("/v1/groups"))
                .await
                .unwrap()
                .json()
                .unwrap();
            let lines: Vec<_> = answer["groups"]
                .as_array()
                .unwrap()
                .iter()
                .map(Line::of)
                .collect();
            let right = GROUPS.iter().zip(&lines).all(|((name, severities), line)| {
                line.json()["group"] == *name && line.received() == mix.counts(severities, "")
            });
            if right {
                return lines.iter().map(Line::duplicates).collect();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, counting)
        .await
        .expect("every group counts exactly")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_counts_for_every_group_through_kills_of_it() {
    let folder = DataFolder::create().unwrap();
    let mix = Mix::new(39, 20_000, 200);
    let mut warren = folder.warren().unwrap();
    warren.start_ready().await.unwrap();
    let (progress, mut accepted) = watch::channel(0);
    let (address, sent) = (warren.address(), mix.clone());
    let sending = tokio::spawn(async move { sent.send(address, &progress).await });
    for percent in [30, 60] {
        let reached = mix.share(percent);
        accepted.wait_for(|accepted| *accepted >= reached).await.unwrap();
        warren.kill().await.unwrap();
        warren.start().await.unwrap();
    }
    sending.await.unwrap().unwrap();
    let duplicates = counted_in_process(&warren, &mix).await;
    assert!(duplicates[0] >= mix.repeated(), "{duplicates:?}");
    warren.stop(SOON).await.unwrap();
    // What was counted is kept, and nothing of it counts again.
    warren.start_ready().await.unwrap();
    counted_in_process(&warren, &mix).await;
    let metrics = Metrics::scrape(warren.address()).await.unwrap();
    let series = "warren_group_messages_total{group=\"critical\",severity=\"critical\"}";
    assert_eq!(
        metrics.value(series),
        Some(mix.counts(&["critical"], "")[4] as f64)
    );
    warren.stop(SOON).await.unwrap();
}

/// The promise, at its size: 200,000 messages, one in twenty sent twice, every consumer killed three times on the way,
/// and the broker once.
#[tokio::test(flavor = "multi_thread")]
async fn all_four_groups_count_exactly_through_kills_of_everything() {
    const MESSAGES: u64 = 200_000;
    let _alone = alone().await;
    let rabbit = spawn_blocking(PrivateRabbit::start).await.unwrap().unwrap();
    let url = rabbit.url();
    let rabbit = Arc::new(Mutex::new(rabbit));
    on_servers(&url, &environment::postgres_url(), async |bed| {
        let books = tempfile::tempdir().unwrap();
        let mix = Mix::new(38, MESSAGES, 1_000);
        let mut ingest = bed.ingest().unwrap();
        ingest.start_ready().await.unwrap();
        let mut consumers = groups(bed, books.path()).await;
        let (progress, mut accepted) = watch::channel(0);
        let (address, sent) = (ingest.address(), mix.clone());
        let sending = tokio::spawn(async move { sent.send(address, &progress).await });
        for percent in [20, 40, 60, 80] {
            let reached = mix.share(percent);
            let reaching = timeout(PATIENCE, accepted.wait_for(|accepted| *accepted >= reached));
            reaching.await.unwrap().unwrap();
            if percent == 40 {
                let rabbit = Arc::clone(&rabbit);
                let again = move || {
                    let mut rabbit = rabbit.lock().unwrap();
                    rabbit.kill();
                    rabbit.start_again()
                };
                spawn_blocking(again).await.unwrap().unwrap();
                continue;
            }
            for consumer in &mut consumers {
                consumer.kill().await.unwrap();
                consumer.start().await.unwrap();
            }
        }
        sending.await.unwrap().unwrap();
        for ((name, severities), consumer) in GROUPS.iter().zip(&mut consumers) {
            let expected = mix.counts(severities, "");
            counted(consumer, expected).await;
            consumer.stop(SOON).await.unwrap();
            nothing_waits(bed, name).await;
            let last = last_line(consumer).unwrap();
            assert_eq!((last.state(), last.received()), ("stopped", expected), "{name}");
            let starts = lines(consumer).unwrap();
            let begun = starts.iter().filter(|line| line.state() == "connecting").count();
            assert!(
                begun >= 4,
                "{name} was not started again as often as it was to be"
            );
        }
        let all = last_line(&consumers[0]).unwrap();
        assert_eq!(all.total(), MESSAGES);
        assert!(all.duplicates() >= mix.repeated(), "{all:?}");
        ingest.stop(SOON).await.unwrap();
    })
    .await;
}
