//! Dead letters that were kept by an earlier version.

use warren_adapter_conformance::samples::message;
use warren_domain::Severity;
use warren_domain::ports::DeadLetterId;

use crate::support::{directory, letters, open};

#[tokio::test]
async fn letters_of_an_earlier_version_are_kept_each_message_once() {
    let directory = directory();
    let embedded = open(directory.path()).await;
    embedded.close().await;
    drop(embedded);
    let dead = message(Severity::Error, "shop.web", "x");
    let mut line = Vec::new();
    dead.append_json_line(&mut line);
    let line = String::from_utf8(line).unwrap().replace('\'', "''");
    let row = |group: &str, seq: i64, line: &str, source: &str| {
        format!(
            "insert into dead_letters (\"group\", seq, place, reason, detail, attempt, first_seen, died_at, severity, \
             source, line) values ('{group}', {seq}, 0, 'undecodable', 'why {group}', 2, 1000000, {seq}000000, 17, \
             {source}, cast('{line}' as blob))"
        )
    };
    let rows = [
        row("*store", 7, &line, "'shop.web'"),
        row("all", 7, "garbage\n", "null"),
        row("*store", 8, "garbage\n", "null"),
    ];
    // The file as `m0002_packets` left it.
    let mut statements = vec![
        "drop table dead_letters",
        "create table dead_letters (id integer not null primary key autoincrement, \"group\" text not null, seq integer \
         not null, place integer not null, reason text not null, detail text not null, attempt integer not null, \
         first_seen integer not null, died_at integer not null, severity integer not null, source text, line blob not \
         null, constraint dead_letters_once unique (\"group\", seq, place)) strict",
        "delete from seaql_migrations where version = 'm0003_dead_letters'",
    ];
    statements.extend(rows.iter().map(String::as_str));
    crate::opening::run_sql(&directory.path().join("data/queue.db"), &statements).await;

    for _ in 0..2 {
        let embedded = open(directory.path()).await;
        let mut kept = letters(&embedded).await;
        kept.sort_by_key(|(letter, _)| letter.facts.attempts);
        let [(whole, content), (garbage, bytes)] = &kept[..] else {
            panic!("{kept:?}");
        };
        assert_eq!(whole.facts.id, DeadLetterId::of_message(dead.id));
        assert_eq!(content, line.trim_end().as_bytes());
        assert_eq!(whole.facts.attempts, 2);
        assert_eq!(whole.facts.source.as_ref(), Some(&dead.source));
        assert_eq!(whole.facts.first_at.unix_micros(), 1_000_000);
        assert_eq!((&bytes[..], garbage.facts.attempts), (&b"garbage"[..], 4));
        assert_eq!(garbage.facts.last_at.unix_micros(), 8_000_000);
        assert_eq!(garbage.facts.queue.as_str(), "store");
        embedded.close().await;
    }
}
