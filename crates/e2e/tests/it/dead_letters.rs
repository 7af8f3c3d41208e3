//! Dead letters from end to end: found, looked at, redriven once their cause is mended, purged.

use std::time::Duration;

use amqprs::BasicProperties;
use amqprs::channel::{BasicPublishArguments, QueueDeleteArguments};
use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use sea_orm::sqlx::{Connection as _, SqliteConnection, query_as};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client as Database;
use uuid::Uuid;
use warren_e2e::bed::{Bed, on_shared_servers};
use warren_e2e::command::{Call, Ended};
use warren_e2e::http::Client;
use warren_e2e::metrics::Metrics;
use warren_e2e::process::Service;
use warren_e2e::rabbit;
use warren_e2e::request::Request;
use warren_e2e::sqlite::DataFolder;

const SOON: Duration = Duration::from_secs(60);

/// How many messages the database refuses in a test of a redrive.
const REFUSED: usize = 2_000;

/// Runs `warren dead` against a program.
async fn dead(server: &Service, arguments: &[&str]) -> Ended {
    let to = format!("http://{}", server.address());
    let all = [&["dead"], arguments, &["--to", &to]].concat();
    Call::of("warren", &all).unwrap().run().await.unwrap()
}

async fn get(server: &Service, target: &str) -> Value {
    let answer = Client::new(server.address())
        .send(&Request::get(target))
        .await
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text_start());
    answer.json().unwrap()
}

/// Begins a redrive of everything; returns where to ask for it.
async fn redrive(server: &Service) -> String {
    let request = Request {
        method: "POST",
        target: "/v1/dead-letters/redrive".to_owned(),
        headers: vec![("content-type", "application/json".to_owned())],
        body: "{}".into(),
    };
    let answer = Client::new(server.address()).send(&request).await.unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text_start());
    answer.header("location").unwrap().to_owned()
}

/// Counts the letters, by the program's own count.
async fn letters(server: &Service) -> u64 {
    let counted = dead(server, &["redrive", "--dry-run", "--json"]).await;
    assert_eq!(counted.code, Some(0), "{}", counted.said);
    let counted: Value = serde_json::from_str(&counted.output).unwrap();
    counted["letters"].as_u64().unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the program consumes, and so everything is declared.
async fn until_consuming(worker: &Service) {
    until("the worker consumes", async || {
        let metrics = Metrics::scrape(worker.address()).await.unwrap();
        metrics.value("warren_amqp_connected{role=\"consume\"}") == Some(1.0)
    })
    .await;
}

/// Posts messages that say one thing.
async fn post(intake: &Service, count: usize, body: &str) {
    let lines =
        format!("{{\"body\":\"{body}\",\"source\":\"shop.web\",\"severity\":\"error\"}}\n").repeat(count);
    let answer = Client::new(intake.address())
        .send(&Request::post(lines))
        .await
        .unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text_start());
}

/// Posts messages that say `poison`, each with an id and a number of its own; returns them in order.
async fn post_poison(intake: &Service, count: usize) -> Vec<(Uuid, i64)> {
    let sent: Vec<_> = (0_i64..)
        .take(count)
        .map(|number| (Uuid::now_v7(), number))
        .collect();
    let lines: String = sent
        .iter()
        .map(|(id, number)| {
            let record = json!({
                "id": id, "body": "poison", "source": "shop.web", "severity": "error",
                "attributes": {"number": number},
            });
            format!("{record}\n")
        })
        .collect();
    let answer = Client::new(intake.address())
        .send(&Request::post(lines))
        .await
        .unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text_start());
    sent
}

/// Puts bytes on an exchange, as some other program might.
async fn put(bed: &Bed, exchange: &str, body: &str) {
    let (connection, channel) = rabbit::open(bed.topology.url()).await.unwrap();
    let exchange = format!("{}.{exchange}", bed.topology.prefix());
    let arguments = BasicPublishArguments::new(&exchange, "shop.web");
    channel
        .basic_publish(BasicProperties::default(), body.into(), arguments)
        .await
        .unwrap();
    rabbit::close(connection, channel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_on_the_queue_is_listed_with_its_reason_and_purged() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let mut worker = bed.worker().unwrap();
        worker.start_ready().await.unwrap();
        put(bed, "error", "{\"body\":\"no id\"}\nnot json\u{1b}[2J").await;
        // A packet with one bad line among good ones.
        let good = "{\"id\":\"019aa0c0-0000-7000-8000-000000000001\",\"body\":\"good\"}";
        put(bed, "critical", &format!("{good}\n[1]")).await;
        until("three letters are kept", async || letters(&worker).await == 3).await;
        assert_eq!(bed.database.count().await.unwrap(), 1, "the good line is stored");

        let page = get(&worker, "/v1/dead-letters?severity=error&source=shop.%23").await;
        let found = page["letters"].as_array().unwrap();
        assert_eq!(found.len(), 2);
        for letter in found {
            assert_eq!(letter["reason"], "undecodable");
            assert_eq!(letter["exchange"], format!("{}.error", bed.topology.prefix()));
            assert_eq!(letter["queue"], format!("{}.store", bed.topology.prefix()));
            assert_eq!(
                (&letter["source"], &letter["attempts"]),
                (&json!("shop.web"), &json!(1))
            );
        }
        let listed = dead(&worker, &["list", "--reason", "undecodable", "--since", "1h"]).await;
        assert_eq!(listed.code, Some(0), "{}", listed.said);
        assert_eq!(listed.output.lines().count(), 4, "{}", listed.output);
        assert!(listed.output.contains("/id"), "{}", listed.output);
        let none = dead(&worker, &["list", "--severity", "debug", "--json"]).await;
        assert_eq!((none.code, none.output.as_str()), (Some(0), ""));
        for letter in found {
            let shown = dead(&worker, &["show", letter["id"].as_str().unwrap()]).await;
            assert_eq!(shown.code, Some(0), "{}", shown.said);
            assert!(
                !shown.output.contains('\u{1b}'),
                "what is hostile is shown, not sent"
            );
            let json = dead(&worker, &["show", letter["id"].as_str().unwrap(), "--json"]).await;
            let json: Value = serde_json::from_str(&json.output).unwrap();
            let text = json["text"].as_str().unwrap();
            assert!(
                ["{\"body\":\"no id\"}", "not json\u{1b}[2J"].contains(&text),
                "{text:?}"
            );
        }

        // What cannot be read stays, and the exit code says so.
        let redriven = dead(&worker, &["redrive"]).await;
        assert_eq!(redriven.code, Some(1), "{}", redriven.output);
        assert!(
            redriven.output.contains("3 cannot be read and stay"),
            "{}",
            redriven.output
        );
        assert_eq!(letters(&worker).await, 3);
        // Nobody can be asked here.
        for arguments in [
            &["purge"][..],
            &["purge", "--all"],
            &["purge", "--severity", "error"],
        ] {
            let refused = dead(&worker, arguments).await;
            assert_eq!(refused.code, Some(2), "{}", refused.said);
        }
        let purged = dead(&worker, &["purge", "--severity", "error", "--yes"]).await;
        assert_eq!(
            (purged.code, purged.output.as_str()),
            (Some(0), "2 purged\n"),
            "{}",
            purged.said
        );
        let purged = dead(&worker, &["purge", "--all", "--yes", "--json"]).await;
        let report: Value = serde_json::from_str(&purged.output).unwrap();
        assert_eq!((&report["state"], &report["done"]), (&json!("done"), &json!(1)));
        assert_eq!(letters(&worker).await, 0);
        let metrics = Metrics::scrape(worker.address()).await.unwrap();
        assert_eq!(metrics.sum("warren_dead_letters_kept_total"), 3);
        assert_eq!(metrics.sum("warren_dead_letters_purged_total"), 3);
        let gone = dead(&worker, &["show", found[0]["id"].as_str().unwrap()]).await;
        assert_eq!(gone.code, Some(1));
        worker.stop(SOON).await.unwrap();
        bed.nothing_waits().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_stored_once_after_a_redrive_that_was_killed_and_begun_again() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let mut ingest = bed.ingest().unwrap();
        // So many at once would be held as a defect.
        let mut worker = bed
            .worker()
            .unwrap()
            .setting("WARREN_WORKER__BREAKER_REFUSED", "0");
        ingest.start_ready().await.unwrap();
        worker.start_ready().await.unwrap();
        let database: Database = bed.database.connect().await.unwrap();
        let other = bed.database.connect().await.unwrap();
        let run = async |statements: &str| database.batch_execute(statements).await.unwrap();
        let stored = async || bed.database.count().await.unwrap();
        run("alter table messages add constraint no_poison check (body <> 'poison')").await;
        let sent = post_poison(&ingest, REFUSED).await;
        post(&ingest, 500, "good").await;
        until("every refused message is a letter", async || {
            letters(&worker).await == REFUSED as u64
        })
        .await;
        until("every neighbour is stored", async || stored().await == 500).await;
        let page = get(&worker, "/v1/dead-letters?limit=1").await;
        assert_eq!(page["letters"][0]["reason"], "refused_by_store");
        assert!(
            page["letters"][0]["detail"]
                .as_str()
                .unwrap()
                .contains("no_poison")
        );

        // Redriven while the cause is there, they die again.
        let last = other
            .query_one("select max(last_at) from dead_letters", &[])
            .await
            .unwrap();
        let last: time::OffsetDateTime = last.get(0);
        let again = dead(&worker, &["redrive", "--json"]).await;
        assert_eq!(again.code, Some(0), "{}", again.said);
        until("every letter has died again", async || {
            let counted = "select count(*) from dead_letters where last_at > $1";
            let row = other.query_one(counted, &[&last]).await.unwrap();
            row.get::<_, i64>(0) == REFUSED as i64
        })
        .await;
        assert_eq!((letters(&worker).await, stored().await), (REFUSED as u64, 500));

        // Mended; but nothing can be removed from the letters, so the redrive gets stuck after its first batch.
        run("alter table messages drop constraint no_poison").await;
        run("begin; lock table dead_letters in share mode").await;
        redrive(&worker).await;
        until("the first batch is stored", async || stored().await > 500).await;
        worker.kill().await.unwrap();
        // PostgreSQL would go on with the removal that waits, for whom nobody waits any more.
        let end = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where datname = current_database() and application_name = 'warren'";
        other.batch_execute(end).await.unwrap();
        run("rollback").await;
        assert!(stored().await < 500 + REFUSED as u64, "killed too late");
        worker.start_ready().await.unwrap();
        assert_eq!(
            letters(&worker).await,
            REFUSED as u64,
            "no letter is gone before its time"
        );

        for round in 0..2 {
            let redriven = dead(&worker, &["redrive", "--source", "shop.#"]).await;
            assert_eq!(redriven.code, Some(0), "{}{}", redriven.output, redriven.said);
            let expected = if round == 0 {
                "2,000 redriven\n"
            } else {
                "0 redriven\n"
            };
            assert_eq!(redriven.output, expected);
        }
        until("all of them are stored", async || {
            stored().await == 500 + REFUSED as u64
        })
        .await;
        bed.wait_drained().await.unwrap();
        assert_eq!(letters(&worker).await, 0);
        ingest.stop(SOON).await.unwrap();
        worker.stop(SOON).await.unwrap();
        bed.nothing_waits().await.unwrap();
        assert_eq!(stored().await, 500 + REFUSED as u64);
        let rows = "select id, (attributes->>'number')::bigint from messages \
                    where body = 'poison' and source = 'shop.web' and severity = 17 order by id";
        let rows = database.query(rows, &[]).await.unwrap();
        let rows: Vec<(Uuid, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(rows, sent, "what was redriven is what was sent");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_the_workers_are_redriven_by_the_query_api_and_the_books_hold() {
    on_shared_servers(async |bed| {
        let [mut ingest, mut worker, mut query] = bed.start_all().await.unwrap();
        let database = bed.database.connect().await.unwrap();
        let run = async |statements: &str| database.batch_execute(statements).await.unwrap();
        let stored = async || bed.database.count().await.unwrap();
        run("alter table messages add constraint no_poison check (body <> 'poison')").await;
        post_poison(&ingest, 10).await;
        post(&ingest, 10, "good").await;
        until("the refused are letters", async || letters(&query).await == 10).await;
        until("the others are stored", async || stored().await == 10).await;
        run("alter table messages drop constraint no_poison").await;
        let redriven = dead(&query, &["redrive", "--severity", "error"]).await;
        assert_eq!(
            (redriven.code, redriven.output.as_str()),
            (Some(0), "10 redriven\n"),
            "{}",
            redriven.said
        );
        until("all of them are stored", async || stored().await == 20).await;
        assert_eq!(letters(&query).await, 0);
        let [ingested, queried, worked] =
            [&ingest, &query, &worker].map(|service| format!("http://{}", service.address()));
        let audit = [
            "audit",
            "--ingest",
            &ingested,
            "--ingest",
            &queried,
            "--worker",
            &worked,
            "--since-start",
        ];
        let audited = Call::of("warren", &audit).unwrap().run().await.unwrap();
        assert_eq!(audited.code, Some(0), "{}{}", audited.output, audited.said);
        for service in [&mut query, &mut ingest, &mut worker] {
            service.stop(SOON).await.unwrap();
        }
        bed.nothing_waits().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_wait_in_the_broker_while_the_database_is_not_ready_for_them() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let database = bed.database.connect().await.unwrap();
        let run = async |statements: &str| database.batch_execute(statements).await.unwrap();
        run("alter table dead_letters rename to elsewhere").await;
        let mut worker = bed.worker().unwrap();
        worker.start().await.unwrap();
        // Messages are stored all the same.
        let told = worker.wait_for("/readyz", 503, SOON).await.unwrap();
        assert!(
            told.text_start().contains("dead_letters"),
            "{}",
            told.text_start()
        );
        until_consuming(&worker).await;
        let good = "{\"id\":\"019aa0c0-0000-7000-8000-000000000001\",\"body\":\"good\"}";
        put(bed, "error", &format!("not json\n{good}")).await;
        until("the message is stored", async || {
            bed.database.count().await.unwrap() == 1
        })
        .await;
        until("the letter waits", async || {
            bed.topology.waiting("dead").await.unwrap() == 1
        })
        .await;
        until("the worker counts it", async || {
            let metrics = Metrics::scrape(worker.address()).await.unwrap();
            metrics.sum("warren_amqp_dead_packets") + metrics.sum("warren_amqp_dead_unsettled_packets") == 1
        })
        .await;
        run("alter table elsewhere rename to dead_letters").await;
        worker.wait_for("/readyz", 200, SOON).await.unwrap();
        until("the letter is kept", async || letters(&worker).await == 1).await;
        worker.stop(SOON).await.unwrap();
        assert_eq!(bed.topology.waiting("dead").await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_read_the_queue_of_dead_letters_stores_and_says_so() {
    on_shared_servers(async |bed| {
        bed.migrate().await.unwrap();
        let mut worker = bed.worker().unwrap();
        worker.start_ready().await.unwrap();
        until_consuming(&worker).await;
        let remark = async || {
            let told = get(&worker, "/readyz").await;
            assert_eq!(told["status"], "ready");
            let check = &told["checks"]["dead_letter_queue"];
            assert_eq!(check["status"], "ok");
            check["detail"].as_str().map(str::to_owned)
        };
        until("the queue is read", async || remark().await.is_none()).await;
        let queue = format!("{}.dead", bed.topology.prefix());
        let (connection, channel) = rabbit::open(bed.topology.url()).await.unwrap();
        let deleted = channel.queue_delete(QueueDeleteArguments::new(&queue)).await;
        deleted.unwrap();
        rabbit::close(connection, channel).await;
        until("it is said", async || {
            remark().await.is_some_and(|remark| remark.contains(&queue))
        })
        .await;
        let good = "{\"id\":\"019aa0c0-0000-7000-8000-000000000001\",\"body\":\"good\"}";
        put(bed, "error", good).await;
        until("the message is stored", async || {
            bed.database.count().await.unwrap() == 1
        })
        .await;
        worker.stop(SOON).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_redrives_what_its_store_has_refused_each_once_also_after_kill_9() {
    let folder = DataFolder::create().unwrap();
    let mut warren = folder
        .warren()
        .unwrap()
        .setting("WARREN_WORKER__BREAKER_REFUSED", "0");
    warren.start_ready().await.unwrap();
    let run = async |sql: &str| folder.change("store.db", sql).await.unwrap();
    let letters_file = async |sql: &str| folder.change("queue.db", sql).await.unwrap();
    run(
        "create trigger no_poison before insert on messages when new.body = 'poison' \
         begin select raise(abort, 'poison'); end",
    )
    .await;
    let sent = post_poison(&warren, REFUSED).await;
    post(&warren, 500, "good").await;
    until("every refused message is a letter", async || {
        letters(&warren).await == REFUSED as u64
    })
    .await;
    until("every neighbour is stored", async || {
        folder.count().await.unwrap() == 500
    })
    .await;
    let page = get(&warren, "/v1/dead-letters?limit=1&source=shop.web").await;
    assert_eq!(page["letters"][0]["reason"], "refused_by_store");
    assert_eq!(page["letters"][0]["exchange"], "error");
    run("drop trigger no_poison").await;
    // Of the second thousand none can be removed, so the redrive gets stuck after it has published some of them.
    letters_file(
        "create trigger stuck before delete on dead_letters \
         when (select count(*) from dead_letters) <= 1000 begin select raise(abort, 'stuck'); end",
    )
    .await;
    let job = redrive(&warren).await;
    until("the redrive is stuck halfway", async || {
        let job = get(&warren, &job).await;
        job["done"] == 1_000 && job["waiting"].is_string()
    })
    .await;
    warren.kill().await.unwrap();
    letters_file("drop trigger stuck").await;
    warren.start_ready().await.unwrap();
    assert_eq!(
        letters(&warren).await,
        1_000,
        "the kill hit a redrive in progress"
    );
    for _ in 0..2 {
        let redriven = dead(&warren, &["redrive"]).await;
        assert_eq!(redriven.code, Some(0), "{}{}", redriven.output, redriven.said);
    }
    until("all of them are stored", async || {
        folder.count().await.unwrap() == 500 + REFUSED as u64
    })
    .await;
    assert_eq!(letters(&warren).await, 0);
    let options = SqliteConnectOptions::new().filename(folder.file("store.db"));
    let mut store = SqliteConnection::connect_with(&options).await.unwrap();
    let rows = "select id, json_extract(attributes, '$.number') from messages \
                where body = 'poison' and source = 'shop.web' and severity = 17 order by id";
    let rows: Vec<(Uuid, i64)> = query_as(rows).fetch_all(&mut store).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(rows, sent, "what was redriven is what was sent");
    // Undecodable lines cannot come in by any door of this program; what is purged is refused again.
    run(
        "create trigger no_poison before insert on messages when new.body = 'poison' \
         begin select raise(abort, 'poison'); end",
    )
    .await;
    post(&warren, 3, "poison").await;
    until("three letters", async || letters(&warren).await == 3).await;
    let purged = dead(&warren, &["purge", "--all", "--yes"]).await;
    assert_eq!((purged.code, purged.output.as_str()), (Some(0), "3 purged\n"));
    assert_eq!(letters(&warren).await, 0);
    warren.stop(SOON).await.unwrap();
    assert_eq!(folder.count().await.unwrap(), 500 + REFUSED as u64);
}
