//! Messages of many kinds, and searches for them.

use fastrand::Rng;
use serde_json::{Map, Value, json};
use warren_domain::ports::{Order, Search, TimeRange};
use warren_domain::{Message, Query, Selection, Severity, SeveritySet, SourcePattern, Timestamp};

use super::ReaderUnderTest;
use crate::samples::{message, message_made_at, with_attributes};

const SOURCES: [&str; 10] = [
    "default",
    "billing",
    "billing.api",
    "billing.api.v2",
    "billing.worker",
    "shop.web.checkout",
    "shop.api",
    "a-b_c.1",
    "A-B_C.1",
    "x",
];

const PATTERNS: [&str; 14] = [
    "#",
    "*",
    "*.*",
    "billing.#",
    "billing.*",
    "billing",
    "#.api",
    "#.api.#",
    "*.api",
    "shop.#.checkout",
    "x",
    "a-b_c.*",
    "*.#.*",
    "nobody.#",
];

const WORDS: [&str; 16] = [
    "payment",
    "Payment",
    "declined",
    "order",
    "Straße",
    "é",
    "É",
    "100%",
    "a_b",
    "it's",
    "\"quoted\"",
    "\\n",
    "👩‍👧",
    "\u{fffd}",
    "--",
    "日本語",
];

const KEYS: [&str; 8] = ["order", "http.status", "http", "user", "ok", "it's", "ключ", "n"];

/// Messages that were stored, and chance.
pub(super) struct Archive {
    pub(super) messages: Vec<Message>,
    pub(super) rng: Rng,
}

impl Archive {
    /// Stores messages of many kinds, some of them again; a part is left as it is stored, and a part is maintained.
    pub(super) async fn stored_in(subject: &dyn ReaderUnderTest, seed: u64) -> Self {
        let mut archive = Self {
            messages: Vec::new(),
            rng: Rng::with_seed(seed),
        };
        for round in 0..4 {
            let batch: Vec<_> = (0..300).map(|_| archive.any_message()).collect();
            subject.store().store(&batch).await.unwrap();
            // A duplicate is found once and counted once.
            subject.store().store(&batch[..20]).await.unwrap();
            archive.messages.extend(batch);
            if round == 1 {
                subject.maintain().await;
            }
        }
        archive
    }

    fn pick<'p>(&mut self, choices: &[&'p str]) -> &'p str {
        choices[self.rng.usize(..choices.len())]
    }

    fn any_time(&mut self) -> Timestamp {
        let midnight = Timestamp::now().unix_micros() / 86_400_000_000 * 86_400_000_000;
        let minutes = 60_000_000;
        let micros = match self.rng.u8(..10) {
            // Around midnight, where the days are apart; many of one millisecond.
            0..6 => midnight + self.rng.i64(-40..40) * 10_000_000,
            6..8 => midnight + self.rng.i64(-600..600) * minutes + self.rng.i64(..minutes),
            8 => midnight - self.rng.i64(1..400) * 86_400_000_000,
            _ => self.rng.i64(..=Timestamp::MAX.unix_micros()),
        };
        Timestamp::from_unix_micros(micros.max(0)).unwrap()
    }

    fn any_message(&mut self) -> Message {
        let severity = match self.rng.u8(..20) {
            0 => Severity::Critical,
            1 => Severity::Debug,
            2..5 => Severity::Error,
            5..8 => Severity::Warning,
            _ => Severity::Info,
        };
        let words: Vec<_> = (0..self.rng.usize(..6)).map(|_| self.pick(&WORDS)).collect();
        let made = message_made_at(self.any_time());
        let message = Message {
            id: made.id,
            ..message(severity, self.pick(&SOURCES), &words.join(" "))
        };
        let mut attributes = Map::new();
        for _ in 0..self.rng.usize(..4) {
            let key = self.pick(&KEYS).to_owned();
            let value = self.any_value();
            attributes.insert(key, value);
        }
        with_attributes(message, Value::Object(attributes))
    }

    fn any_value(&mut self) -> Value {
        match self.rng.u8(..9) {
            0 => json!(self.rng.i64(..4)),
            1 => json!(self.rng.i64(..4) as f64 / 2.0),
            2 => json!(self.rng.bool()),
            3 => json!(null),
            4 => json!(self.rng.i64(..4).to_string()),
            5 => json!({ "status": self.rng.i64(..4), "n": "'" }),
            6 => json!([1, "a"]),
            7 => json!(1_u64 << 60 | u64::from(self.rng.bool())),
            _ => json!(self.pick(&WORDS)),
        }
    }

    /// Returns a search that means some of them, and how many to ask for.
    pub(super) fn search(&mut self) -> (Search, usize) {
        let terms: Vec<_> = (0..self.rng.usize(..3)).map(|_| self.term()).collect();
        let query = terms.join(" ");
        let query: Query = query.parse().unwrap_or_else(|error| panic!("{query}: {error}"));
        let search = Search {
            selection: self.selection(),
            query,
            range: self.range(),
            order: if self.rng.bool() {
                Order::NewestFirst
            } else {
                Order::OldestFirst
            },
            from: None,
        };
        let meant = self
            .messages
            .iter()
            .filter(|message| search.means(message))
            .count();
        let least = (meant / 12).max(1);
        (search, self.rng.usize(least..=least + 100))
    }

    fn selection(&mut self) -> Selection {
        let severities = match self.rng.u8(..4) {
            0 => "error+".parse().unwrap(),
            1 => "debug".parse().unwrap(),
            2 => Severity::ALL.into_iter().filter(|_| self.rng.bool()).collect(),
            _ => SeveritySet::ALL,
        };
        let count = if self.rng.bool() { 0 } else { self.rng.usize(1..4) };
        Selection {
            severities,
            sources: (0..count).map(|_| self.pattern()).collect(),
        }
    }

    fn pattern(&mut self) -> SourcePattern {
        self.pick(&PATTERNS).parse().unwrap()
    }

    fn range(&mut self) -> TimeRange {
        // The exact time of a message, or beside it.
        let mut time = || {
            let message = &self.messages[self.rng.usize(..self.messages.len())];
            let micros = message.id.timestamp().unix_micros() + self.rng.i64(-1..=1);
            Timestamp::from_unix_micros(micros).unwrap_or(Timestamp::MAX)
        };
        let (one, other) = (time(), time());
        let range = TimeRange::new(one.min(other), one.max(other));
        match (self.rng.u8(..3), range) {
            (0, _) | (_, Err(_)) => TimeRange::ALL,
            (_, Ok(range)) => range,
        }
    }

    fn term(&mut self) -> String {
        let minus = if self.rng.u8(..4) == 0 { "-" } else { "" };
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let term = match self.rng.u8(..8) {
            0..3 => quoted(&self.pick(&WORDS).to_ascii_uppercase()),
            3..6 => {
                let key = self.pick(&[&KEYS[..], &["http.n"]].concat());
                let value = match self.any_value() {
                    Value::String(text) => quoted(&text),
                    Value::Object(_) | Value::Array(_) => "1".to_owned(),
                    other => other.to_string(),
                };
                format!("{}={value}", quoted(key))
            }
            6 => format!("source:{}", self.pick(&PATTERNS)),
            _ if self.rng.bool() => "severity>=warning".to_owned(),
            _ => format!("id:{}", self.messages[self.rng.usize(..self.messages.len())].id),
        };
        format!("{minus}{term}")
    }
}
