//! A message as one line for people.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use warren_domain::{Message, Severity};
use warren_process::telemetry::escape::{Escaped, is_hostile};

const FAINT: Style = Style::new().dimmed();

/// Where in a time of RFC 3339 the hour begins…
const HOUR: usize = 11;
/// …and the milliseconds end.
const MILLISECOND: usize = 23;

/// How a time is written, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Of what is published now.
    Time,
    /// Of what may be older than a day.
    DateAndTime,
}

/// Returns a message as one line: when, how grave, who, what, and the attributes.
///
/// What others wrote cannot steer the terminal: control characters, direction marks and line ends are escaped.
pub(crate) fn text(message: &Message, moment: Moment, colours: bool) -> String {
    let paint = |style: Style| if colours { style } else { Style::new() };
    let (faint, grave) = (paint(FAINT), paint(style(message.severity)));
    let begin = match moment {
        Moment::Time => HOUR,
        Moment::DateAndTime => 0,
    };
    let moment = message.occurred_at.to_string();
    let moment = moment.get(begin..MILLISECOND).unwrap_or(&moment);
    let mut line = format!(
        "{faint}{moment}Z{faint:#} {grave}{:<8}{grave:#} {}  {}",
        message.severity.as_str(),
        message.source,
        Escaped(message.body.as_str())
    );
    // Writing into memory cannot fail.
    for (index, (key, value)) in message.attributes.as_map().iter().enumerate() {
        let gap = if index == 0 { "  " } else { " " };
        let value = value.to_string();
        write!(line, "{gap}{faint}{}={}{faint:#}", Escaped(key), Escaped(&value)).ok();
    }
    line.push('\n');
    line
}

/// Returns a message as its line of JSON.
///
/// JSON itself lets most control characters and all direction marks stand; here they are escaped, which JSON allows, so
/// that a line is as harmless on a terminal as it is equal for a program.
pub(crate) fn json(message: &Message) -> String {
    let mut line = Vec::new();
    message.append_json_line(&mut line);
    harmless(&String::from_utf8_lossy(&line))
}

/// Escapes in a line of JSON what could steer a terminal.
pub(crate) fn harmless(line: &str) -> String {
    let hostile = |c: char| c != '\n' && is_hostile(c);
    let mut escaped = String::with_capacity(line.len());
    for c in line.chars() {
        if hostile(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing into memory cannot fail.
                write!(escaped, "\\u{unit:04x}").ok();
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn style(severity: Severity) -> Style {
    match severity {
        Severity::Debug => FAINT,
        Severity::Info => AnsiColor::Green.on_default(),
        Severity::Warning => AnsiColor::Yellow.on_default(),
        Severity::Error => AnsiColor::Red.on_default(),
        Severity::Critical => AnsiColor::BrightWhite.on(AnsiColor::Red).bold(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(severity: &str, body: &str, attributes: &str) -> Message {
        let json = serde_json::json!({
            "id": "019aa0c0-0000-7000-8000-000000000001",
            "severity": severity,
            "source": "billing.api",
            "body": body,
            "attributes": serde_json::from_str::<serde_json::Value>(attributes).unwrap(),
            "occurred_at": "2026-11-22T13:00:00.1236Z",
        });
        Message::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_line_says_when_how_grave_who_and_what() {
        let plain = text(
            &message("error", "card declined", r#"{"order": 42, "user": "ada"}"#),
            Moment::Time,
            false,
        );
        assert_eq!(
            plain,
            "13:00:00.123Z error    billing.api  card declined  order=42 user=\"ada\"\n"
        );
        assert_eq!(
            text(&message("info", "ok", "{}"), Moment::Time, false),
            "13:00:00.123Z info     billing.api  ok\n"
        );
        assert_eq!(
            text(&message("info", "ok", "{}"), Moment::DateAndTime, false),
            "2026-11-22T13:00:00.123Z info     billing.api  ok\n"
        );
    }

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        let evil = message(
            "critical",
            "\u{1b}[2J\u{9b}31m\nforged line\r\u{202e}",
            r#"{"\u001b[1m": "\u009b2J\udb40\udc01"}"#,
        );
        let plain = text(&evil, Moment::Time, false);
        assert_eq!(
            plain.trim_end(),
            r#"13:00:00.123Z critical billing.api  \u{1b}[2J\u{9b}31m\nforged line\r\u{202e}  \u{1b}[1m="\u{9b}2J\u{e0001}""#
        );
        assert_eq!(plain.matches(char::is_control).count(), 1);
        let json = json(&evil);
        assert_eq!(json.matches(char::is_control).count(), 1, "{json}");
        assert_eq!(Message::from_json(json.as_bytes()), Ok(evil.clone()));
        // With colours there are escape sequences, but only ours.
        let coloured = text(&evil, Moment::Time, true);
        assert!(coloured.contains("\u{1b}[0m") && !coloured.contains("\u{1b}[2J"));
    }
}
