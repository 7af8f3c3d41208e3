//! What lies in the queue of the dead letters, as letters that people can work with.
//!
//! It holds three kinds: letters that Warren has written, with their reasons in headers (`dead_letters`); packets that
//! RabbitMQ itself gave up, which have its `x-death` instead and hold many messages; and whatever else somebody has
//! put there. Each line becomes a letter of its own, so that a message is looked at, redriven and purged alone.

use warren_domain::ports::{DeadLetter, DeadLetterId, Death, LetterFacts, LetterText};
use warren_domain::{Message, Timestamp};

use crate::dead_letters::{
    ATTEMPT, DETAIL, DIED_AT, EXCHANGE, FIRST_SEEN, MAX_LETTERS, QUEUE, REASON, ROUTING_KEY,
};
use crate::packet::{DELIVERY_COUNT, PACKET_TYPE};
use crate::wire::{Header, Table, Value};

/// A message as the queue of the dead letters delivers it.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
}

/// Why and where something died, as far as it says.
struct Story {
    reason: LetterText,
    detail: String,
    exchange: String,
    routing_key: String,
    queue: String,
    attempts: u64,
    first_at: Option<Timestamp>,
    last_at: Option<Timestamp>,
    /// Whether each line may say better what is wrong with it.
    undecodable: bool,
}

impl Raw {
    /// Makes a letter of each line, at least one.
    pub(crate) fn into_letters(self) -> Vec<DeadLetter> {
        let story = self.story();
        let published = self.header.timestamp.and_then(moment_of_seconds);
        let last_at = story.last_at.or(published).unwrap_or_else(Timestamp::now);
        let letter = |content: &[u8]| {
            let decoded = Message::from_json(content);
            let message = decoded.as_ref().ok();
            let (id, severity, source) =
                DeadLetter::identify(&story.exchange, &story.routing_key, content, message);
            let first_at = match (&decoded, story.first_at) {
                (_, Some(first_at)) => first_at,
                (Ok(message), None) => message.received_at,
                (Err(_), None) => published.unwrap_or(last_at),
            };
            let detail = match decoded {
                Err(rejection) if story.undecodable => LetterText::from(rejection.to_string()),
                _ => LetterText::from(&story.detail),
            };
            DeadLetter {
                facts: LetterFacts {
                    id,
                    reason: story.reason.clone(),
                    detail,
                    exchange: LetterText::from(&story.exchange),
                    routing_key: LetterText::from(&story.routing_key),
                    queue: LetterText::from(&story.queue),
                    severity,
                    source,
                    message_type: self.header.message_type.as_ref().map(LetterText::from),
                    content_encoding: self.header.content_encoding.as_ref().map(LetterText::from),
                    attempts: story.attempts,
                    first_at,
                    last_at,
                },
                death: self.death(id, &story),
                content: content.to_vec(),
            }
        };
        let mut lines = self.lines().into_iter();
        let mut letters: Vec<_> = lines.by_ref().take(MAX_LETTERS).map(letter).collect();
        let shared = lines.collect::<Vec<_>>().join(&b'\n');
        if letters.is_empty() || !shared.is_empty() {
            let content = if letters.is_empty() { &self.body } else { &shared };
            letters.push(letter(content));
        }
        letters
    }

    /// Returns the lines that say something; none of what is no packet that this program knows.
    fn lines(&self) -> Vec<&[u8]> {
        let kind = self.header.message_type.as_deref().unwrap_or_default();
        let encoding = self.header.content_encoding.as_deref().unwrap_or_default();
        if !(kind.is_empty() || kind == PACKET_TYPE) || !encoding.is_empty() {
            return Vec::new();
        }
        let lines = self.body.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.iter().all(u8::is_ascii_whitespace))
            .collect()
    }

    /// Tells one death of a letter from another: by the message that brought it, which no other publication is.
    fn death(&self, id: DeadLetterId, story: &Story) -> Death {
        let number = |number: Option<i64>| number.unwrap_or(-1).to_be_bytes();
        let message_id = self.header.message_id.as_deref().unwrap_or_default();
        let last_at = story.last_at.map(Timestamp::unix_micros);
        let published = self.header.timestamp.and_then(|at| i64::try_from(at).ok());
        Death::of([
            id.as_uuid().as_bytes(),
            message_id.as_bytes(),
            &number(last_at),
            &number(published),
            story.queue.as_bytes(),
            story.reason.as_str().as_bytes(),
        ])
    }

    fn story(&self) -> Story {
        let headers = &self.header.headers;
        if let Some(reason) = headers.text(REASON) {
            return self.own_story(reason);
        }
        match last_death(headers) {
            Some(death) => self.brokers_story(death),
            None => Story {
                reason: "unknown".into(),
                detail: "somebody has put it among the dead letters without a reason".to_owned(),
                exchange: self.exchange.clone(),
                routing_key: self.routing_key.clone(),
                queue: String::new(),
                attempts: 1,
                first_at: None,
                last_at: None,
                undecodable: false,
            },
        }
    }

    /// What Warren has written when it gave something up.
    fn own_story(&self, reason: &str) -> Story {
        let headers = &self.header.headers;
        let text = |name| headers.text(name).unwrap_or_default().to_owned();
        let moment = |name| headers.text(name).and_then(|text| text.parse().ok());
        let attempts = headers
            .number(ATTEMPT)
            .and_then(|attempt| u32::try_from(attempt).ok());
        Story {
            reason: reason.into(),
            detail: text(DETAIL),
            exchange: text(EXCHANGE),
            routing_key: text(ROUTING_KEY),
            queue: text(QUEUE),
            attempts: attempts.unwrap_or(1).max(1).into(),
            first_at: moment(FIRST_SEEN),
            last_at: moment(DIED_AT),
            undecodable: reason == "undecodable",
        }
    }

    /// What RabbitMQ has written when it gave something up. <https://www.rabbitmq.com/docs/dlx#effects>
    fn brokers_story(&self, death: &Table) -> Story {
        let headers = &self.header.headers;
        let reason = death.text("reason").unwrap_or("unknown");
        let queue = death.text("queue").unwrap_or_default();
        let routing_key = match death.get("routing-keys") {
            Some(Value::List(keys)) => keys.iter().find_map(|key| match key {
                Value::Text(key) => Some(key.clone()),
                _ => None,
            }),
            _ => None,
        };
        let deliveries = headers
            .number(DELIVERY_COUNT)
            .and_then(|count| u32::try_from(count).ok());
        let detail = match reason {
            "delivery_limit" => {
                format!(
                    "its consumers died with it, or gave it back, until {queue} had delivered it too often"
                )
            }
            "expired" => format!("it waited too long in {queue}"),
            "maxlen" => format!("{queue} was full"),
            "rejected" => format!("a consumer of {queue} has rejected it"),
            other => format!("RabbitMQ gave it up in {queue}: {other}"),
        };
        Story {
            reason: reason.into(),
            detail,
            exchange: death.text("exchange").unwrap_or_default().to_owned(),
            routing_key: routing_key.unwrap_or_else(|| self.routing_key.clone()),
            queue: queue.to_owned(),
            attempts: deliveries.unwrap_or(1).max(1).into(),
            first_at: None,
            last_at: death
                .number("time")
                .and_then(|seconds| u64::try_from(seconds).ok())
                .and_then(moment_of_seconds),
            undecodable: false,
        }
    }
}

/// Returns the latest of a message's deaths, which RabbitMQ puts first.
fn last_death(headers: &Table) -> Option<&Table> {
    let Value::List(deaths) = headers.get("x-death")? else {
        return None;
    };
    deaths.iter().find_map(|death| match death {
        Value::Table(death) => Some(death),
        _ => None,
    })
}

fn moment_of_seconds(seconds: u64) -> Option<Timestamp> {
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    Timestamp::from_unix_micros(micros)
}

#[cfg(test)]
mod tests {
    use warren_domain::{MessageId, Severity};

    use super::*;

    fn line(id: MessageId) -> String {
        format!("{{\"id\":\"{id}\",\"severity\":\"error\",\"source\":\"a.b\",\"body\":\"x\"}}")
    }

    fn raw(body: impl Into<Vec<u8>>, header: Header) -> Raw {
        Raw {
            exchange: "warren.dead".to_owned(),
            routing_key: "key".to_owned(),
            header,
            body: body.into(),
        }
    }

    fn given_up(count: i64) -> Header {
        let death = Table::of([
            ("reason", Value::Text("delivery_limit".to_owned())),
            ("queue", Value::Text("warren.store".to_owned())),
            ("exchange", Value::Text("warren.error".to_owned())),
            ("routing-keys", Value::List(vec![Value::Text("a.b".to_owned())])),
            ("time", Value::Number(1_795_352_400)),
        ]);
        Header {
            message_id: Some("7".to_owned()),
            message_type: Some(PACKET_TYPE.to_owned()),
            headers: Table::of([
                ("x-death", Value::List(vec![Value::Table(death)])),
                (DELIVERY_COUNT, Value::Number(count)),
            ]),
            ..Header::default()
        }
    }

    #[test]
    fn a_packet_that_the_broker_gave_up_is_a_letter_a_line() {
        let ids = [MessageId::generate(), MessageId::generate()];
        let body = format!("{}\n\nnot json\r\n{}\n", line(ids[0]), line(ids[1]));
        let letters = raw(body, given_up(20)).into_letters();
        let found: Vec<_> = letters.iter().map(|letter| letter.facts.id).collect();
        let garbage = DeadLetterId::of_content("warren.error", "a.b", b"not json\r");
        assert_eq!(
            found,
            [
                DeadLetterId::of_message(ids[0]),
                garbage,
                DeadLetterId::of_message(ids[1])
            ]
        );
        for letter in &letters {
            let facts = &letter.facts;
            assert_eq!((facts.reason.as_str(), facts.attempts), ("delivery_limit", 20));
            assert_eq!(facts.queue.as_str(), "warren.store");
            assert_eq!(facts.severity, Some(Severity::Error));
            assert_eq!(facts.source, "a.b".parse().ok());
            assert_eq!(facts.last_at.to_string(), "2026-11-22T13:00:00.000000Z");
            assert!(facts.detail.as_str().contains("warren.store"));
        }
        assert_eq!(letters[0].facts.first_at, ids[0].timestamp());
    }

    #[test]
    fn the_same_delivery_is_the_same_death_and_another_publication_another_one() {
        let id = MessageId::generate();
        let death = |header| raw(line(id), header).into_letters()[0].death;
        assert_eq!(death(given_up(20)), death(given_up(20)));
        let published_again = Header {
            message_id: Some("8".to_owned()),
            ..given_up(20)
        };
        assert_ne!(death(published_again), death(given_up(20)));
    }

    #[test]
    fn whatever_lies_there_is_a_letter_with_its_bytes() {
        let zipped = Header {
            content_encoding: Some("gzip".to_owned()),
            ..given_up(1)
        };
        for (body, header) in [
            (b"".to_vec(), Header::default()),
            (b"\n\n".to_vec(), given_up(0)),
            (b"\xff\x00\xfe".to_vec(), Header::default()),
            (b"a\nb".to_vec(), zipped),
        ] {
            let letters = raw(body.clone(), header).into_letters();
            assert_eq!(letters.len(), 1);
            assert_eq!(letters[0].content, body);
            assert_eq!(letters[0].facts.attempts, 1);
        }
    }

    #[test]
    fn countless_lines_make_a_bounded_number_of_letters() {
        let body = (0..MAX_LETTERS + 50)
            .map(|n| format!("{n}\n"))
            .collect::<String>();
        let letters = raw(body.clone(), Header::default()).into_letters();
        assert_eq!(letters.len(), MAX_LETTERS + 1);
        let lines: Vec<_> = letters.iter().map(|letter| letter.content.clone()).collect();
        assert_eq!(lines.join(&b'\n'), body.trim_end().as_bytes());
    }

    #[test]
    fn a_letter_of_ours_says_what_its_headers_do_and_each_line_what_is_wrong_with_it() {
        let text = |text: &str| Value::Text(text.to_owned());
        let headers = Table::of([
            (REASON, text("undecodable")),
            (DETAIL, text("2 lines, none of them a message")),
            (EXCHANGE, text("warren.info")),
            (ROUTING_KEY, text("shop")),
            (QUEUE, text("warren.store")),
            (FIRST_SEEN, text("2026-11-22T13:00:00.000000Z")),
            (DIED_AT, text("2026-11-22T13:00:01.500000Z")),
            (ATTEMPT, Value::Number(3)),
        ]);
        let header = Header {
            headers,
            ..Header::default()
        };
        let letters = raw("{\"body\":1}\n{\"body\":\"no id\"}", header).into_letters();
        let details: Vec<_> = letters
            .iter()
            .map(|letter| letter.facts.detail.as_str())
            .collect();
        assert!(
            details[0].contains("/body") && details[1].contains("/id"),
            "{details:?}"
        );
        let facts = &letters[0].facts;
        assert_eq!(facts.first_at.to_string(), "2026-11-22T13:00:00.000000Z");
        assert_eq!(facts.last_at.to_string(), "2026-11-22T13:00:01.500000Z");
        assert_eq!((facts.attempts, facts.exchange.as_str()), (3, "warren.info"));
        assert_eq!(facts.severity, Some(Severity::Info));
    }
}
