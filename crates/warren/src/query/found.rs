//! A message of an answer, as it is printed.

use anyhow::{Context as _, Result};
use serde_json::Value;
use warren_domain::{Message, MessageId};

use crate::line::{self, Moment};

/// How messages are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) json: bool,
    pub(super) colours: bool,
}

impl Shown {
    /// Returns the line of a message, and its id.
    ///
    /// # Errors
    /// It is no message.
    pub(super) fn line(self, mut message: Value) -> Result<(MessageId, String)> {
        let json = self.json.then(|| line::harmless(&format!("{message}\n")));
        if let Some(members) = message.as_object_mut() {
            // Of the store's, and no message's.
            members.remove("stored_at");
        }
        let bytes = serde_json::to_vec(&message)?;
        let message = Message::from_json(&bytes).context("an answer holds what is no message")?;
        let line = json.unwrap_or_else(|| line::text(&message, Moment::DateAndTime, self.colours));
        Ok((message.id, line))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_is_a_line_for_people_or_as_the_server_says_it() {
        let message = json!({
            "id": "019aa0c0-0000-7000-8000-000000000001", "severity": "error", "source": "billing.api",
            "body": "card declined\u{9b}", "attributes": {"order": 42}, "occurred_at": "2026-11-22T13:00:00Z",
            "received_at": "2026-11-22T13:00:01Z", "stored_at": "2026-11-22T13:00:02Z",
        });
        let shown = |json| Shown { json, colours: false }.line(message.clone()).unwrap();
        let (id, text) = shown(false);
        assert_eq!(id.to_string(), "019aa0c0-0000-7000-8000-000000000001");
        assert_eq!(
            text,
            "2026-11-22T13:00:00.000Z error    billing.api  card declined\\u{9b}  order=42\n"
        );
        let (_, line) = shown(true);
        assert_eq!(line.matches(char::is_control).count(), 1, "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), message);
        let wrong = Shown {
            json: true,
            colours: false,
        }
        .line(json!({"body": 7}));
        assert!(wrong.unwrap_err().to_string().contains("no message"));
    }
}
