//! Dead letters as people read them.

use serde::Deserialize;
use warren_process::telemetry::escape::Escaped;

/// How much of what is wrong is shown in the list, in characters.
const DETAIL: usize = 80;

/// A letter as the server lists it.
#[derive(Debug, Deserialize)]
pub(super) struct Letter {
    id: String,
    reason: String,
    detail: String,
    severity: Option<String>,
    source: Option<String>,
    exchange: String,
    routing_key: String,
    queue: String,
    attempts: u64,
    first_at: String,
    last_at: String,
    bytes: u64,
    message_type: Option<String>,
    content_encoding: Option<String>,
}

/// A letter with its bytes.
#[derive(Debug, Deserialize)]
pub(super) struct Whole {
    #[serde(flatten)]
    letter: Letter,
    text: Option<String>,
    base64: Option<String>,
    cut: bool,
}

/// Writes letters as an aligned table, a line each.
pub(super) fn table(letters: &[Letter]) -> String {
    if letters.is_empty() {
        return String::new();
    }
    let mut rows = vec![
        [
            "LAST", "REASON", "SEVERITY", "SOURCE", "ATTEMPTS", "BYTES", "ID", "DETAIL",
        ]
        .map(str::to_owned),
    ];
    rows.extend(letters.iter().map(|letter| {
        let unknown = || "-".to_owned();
        [
            seconds(&letter.last_at),
            Escaped(&letter.reason).to_string(),
            letter.severity.clone().unwrap_or_else(unknown),
            letter.source.clone().unwrap_or_else(unknown),
            letter.attempts.to_string(),
            letter.bytes.to_string(),
            letter.id.clone(),
            Escaped(&letter.detail).to_string().chars().take(DETAIL).collect(),
        ]
    }));
    let widths: Vec<_> = (0..8)
        .map(|column| {
            let widths = rows.iter().map(|row| row[column].chars().count());
            widths.max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                // Numbers stand at the right.
                4 | 5 => format!("{cell:>width$}"),
                _ => format!("{cell:width$}"),
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Writes one letter, and its bytes below.
pub(super) fn whole(whole: &Whole) -> String {
    let letter = &whole.letter;
    let mut text = String::new();
    let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for (name, value) in [
        ("id", letter.id.clone()),
        ("reason", letter.reason.clone()),
        ("detail", letter.detail.clone()),
        ("severity", optional(&letter.severity)),
        ("source", optional(&letter.source)),
        ("exchange", letter.exchange.clone()),
        ("routing key", letter.routing_key.clone()),
        ("queue", letter.queue.clone()),
        ("type", optional(&letter.message_type)),
        ("encoding", optional(&letter.content_encoding)),
        ("attempts", letter.attempts.to_string()),
        ("first", letter.first_at.clone()),
        ("last", letter.last_at.clone()),
        ("bytes", letter.bytes.to_string()),
    ] {
        text.push_str(&format!("{name:12}  {}\n", Escaped(&value)));
    }
    text.push('\n');
    match (&whole.text, &whole.base64) {
        (Some(content), _) => text.push_str(&Escaped(content).to_string()),
        (None, Some(base64)) => text.push_str(&format!("(not UTF-8; base64)\n{base64}")),
        (None, None) => {}
    }
    text.push('\n');
    if whole.cut {
        text.push_str("(cut off here: it is longer than the server shows)\n");
    }
    text
}

/// Returns a time without its fraction, as a list needs no more.
fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn letters_are_a_table_and_control_characters_are_shown_not_sent() {
        let letter = json!({
            "id": "019aa0c0-0000-7000-8000-000000000001", "reason": "undecodable", "detail": "bad\u{1b}[2J",
            "severity": null, "source": "a.b", "exchange": "warren.error", "routing_key": "a.b", "queue": "warren.store",
            "attempts": 12, "first_at": "2026-11-22T13:00:00.000000Z", "last_at": "2026-11-22T13:00:01.500000Z",
            "bytes": 7, "message_type": null, "content_encoding": null, "text": "x\u{1b}", "base64": null, "cut": false,
        });
        let letters = [serde_json::from_value(letter.clone()).unwrap()];
        let listed = table(&letters);
        let mut lines = listed.lines();
        assert!(
            lines
                .next()
                .unwrap()
                .starts_with("LAST                  REASON       SEVERITY  SOURCE")
        );
        let line = lines.next().unwrap();
        assert!(
            line.starts_with(
                "2026-11-22T13:00:01Z  undecodable  -         a.b           12      7  019aa0c0"
            ),
            "{line}"
        );
        let shown = whole(&serde_json::from_value(letter).unwrap());
        assert!(
            shown.contains("routing key   a.b\n") && shown.contains("attempts      12\n"),
            "{shown}"
        );
        assert!(!listed.contains('\u{1b}') && !shown.contains('\u{1b}'));
        assert_eq!(table(&[]), "");
    }
}
