//! Dead letters and jobs as clients see them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;
use warren_domain::ports::{KeptLetter, LetterText};

/// The most bytes of a letter that are shown; longer ones are cut off there.
pub(super) const MOST_SHOWN: usize = 8 << 20;

/// What is known about a dead letter, beside its bytes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct LetterView {
    /// Which one it is: of a message its id.
    #[schema(format = "uuid")]
    id: String,
    /// What kind of fault: `undecodable`, `refused_by_store`, `delivery_limit`, …
    #[schema(example = "refused_by_store")]
    reason: String,
    /// What is wrong.
    detail: String,
    /// How grave it is; `null` where that cannot be told.
    #[schema(example = "error")]
    severity: Option<&'static str>,
    /// Who says it; `null` where that cannot be told.
    #[schema(example = "billing.api")]
    source: Option<String>,
    /// The exchange it came through; in one process the name of its severity.
    #[schema(example = "warren.error")]
    exchange: String,
    /// The routing key it came with.
    #[schema(example = "billing.api")]
    routing_key: String,
    /// The queue, or consumer group, that gave it up.
    #[schema(example = "warren.store")]
    queue: String,
    /// How many deliveries were tried, over all its deaths since it was kept; one that is redriven begins anew.
    attempts: u64,
    /// When Warren first had it.
    #[schema(format = "date-time")]
    first_at: String,
    /// When it last became a dead letter.
    #[schema(format = "date-time")]
    last_at: String,
    /// How long it is, in bytes.
    bytes: u64,
    /// What it says its format is.
    #[schema(example = "warren.v1")]
    message_type: Option<String>,
    /// What it says its encoding is.
    content_encoding: Option<String>,
}

impl From<KeptLetter> for LetterView {
    fn from(letter: KeptLetter) -> Self {
        let KeptLetter { facts, bytes, .. } = letter;
        let text = |text: LetterText| text.as_str().to_owned();
        Self {
            id: facts.id.to_string(),
            reason: text(facts.reason),
            detail: text(facts.detail),
            severity: facts.severity.map(|severity| severity.as_str()),
            source: facts.source.map(|source| source.to_string()),
            exchange: text(facts.exchange),
            routing_key: text(facts.routing_key),
            queue: text(facts.queue),
            attempts: facts.attempts,
            first_at: facts.first_at.to_string(),
            last_at: facts.last_at.to_string(),
            bytes,
            message_type: facts.message_type.map(text),
            content_encoding: facts.content_encoding.map(text),
        }
    }
}

/// A page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterPage)]
pub(crate) struct LetterPage {
    /// The letters, the one that died last first.
    pub(crate) letters: Vec<LetterView>,
    /// What `after` of the next page is; `null` on the last one.
    pub(crate) next: Option<String>,
}

/// A dead letter with its bytes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WholeDeadLetter)]
pub(crate) struct WholeLetter {
    /// What is known about it.
    #[serde(flatten)]
    letter: LetterView,
    /// The original bytes, where they are UTF-8; `null` else.
    text: Option<String>,
    /// The original bytes in base64, where they are not UTF-8; `null` else.
    base64: Option<String>,
    /// Whether only the first 8 MiB are shown.
    cut: bool,
}

impl WholeLetter {
    /// Makes it of a letter and its first bytes, at most [`MOST_SHOWN`].
    pub(crate) fn of(letter: KeptLetter, mut shown: Vec<u8>) -> Self {
        let cut = (shown.len() as u64) < letter.bytes;
        if cut
            && let Err(error) = std::str::from_utf8(&shown)
            && error.error_len().is_none()
        {
            // Cut within a character.
            shown.truncate(error.valid_up_to());
        }
        let (text, base64) = match String::from_utf8(shown) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        Self {
            cut,
            letter: letter.into(),
            text,
            base64,
        }
    }
}

/// What is to be done with which dead letters; every member is optional.
#[derive(Debug, ToSchema)]
#[schema(as = DeadLetterWish)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what Wish reads by itself")]
pub(crate) struct WishForm {
    /// Only count.
    #[schema(default = false, required = false)]
    dry_run: bool,
    /// All of them are meant; a purge without `filter` and `ids` has to say so.
    #[schema(default = false, required = false)]
    all: bool,
    /// Those that every condition holds for.
    filter: Option<FilterForm>,
    /// Those with one of these ids, at most 1000, as far as `filter` means them too.
    ids: Option<Vec<String>>,
    /// The `as_of` of a dry run: only what it counted, without what has died since as far as clocks agree. Otherwise the
    /// moment the job begins.
    #[schema(format = "uuid")]
    as_of: Option<String>,
}

/// Conditions, all optional.
#[derive(Debug, ToSchema)]
#[schema(as = DeadLetterFilter)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "describes what Wish reads by itself")]
pub(crate) struct FilterForm {
    /// Of these reasons.
    reason: Option<ReasonsForm>,
    /// Of these severities.
    #[schema(example = "error+")]
    severity: Option<String>,
    /// Of this source, or with `.#` all beneath it too.
    #[schema(example = "billing.#")]
    source: Option<String>,
    /// That died at this time or later: RFC 3339, or before now: `-15m`, `-1h`, `-7d`.
    #[schema(example = "2026-11-22T13:00:00Z")]
    since: Option<String>,
    /// That died before this time, likewise, or `now`.
    #[schema(example = "2026-11-23T13:00:00Z")]
    until: Option<String>,
}

/// One or several reasons.
#[derive(Debug, ToSchema)]
#[schema(as = DeadLetterReasons)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what Wish reads by itself")]
pub(crate) enum ReasonsForm {
    /// Separated by commas.
    #[schema(example = "undecodable,delivery_limit")]
    One(String),
    /// Each by itself.
    More(Vec<String>),
}

/// How far a job is.
#[derive(Debug, ToSchema)]
#[schema(as = DeadLetterJob)]
#[expect(dead_code, reason = "describes what JobReport writes by itself")]
pub(crate) struct JobForm {
    /// Which job.
    #[schema(format = "uuid")]
    id: String,
    /// `redrive` or `purge`.
    #[schema(example = "redrive")]
    action: String,
    /// `running`, `done` or `cancelled`.
    #[schema(example = "running")]
    state: String,
    /// When it began.
    #[schema(format = "date-time")]
    began_at: String,
    /// When it ended; `null` while it runs.
    #[schema(format = "date-time")]
    ended_at: Option<String>,
    /// How many letters it meant when it began.
    total: u64,
    /// Letters whose messages were published again, or that were removed.
    done: u64,
    /// Letters that hold something that is no message, and stay.
    unreadable: u64,
    /// Letters that the broker does not take, and stay.
    failed: u64,
    /// Of `done`, letters that had died again meanwhile and so stay, or that somebody else has removed.
    changed: u64,
    /// How many letters are still to be looked at.
    left: u64,
    /// What it waits for, while it does.
    waiting: Option<String>,
    /// Why letters stay: the first few reasons.
    reasons: Vec<String>,
}

/// The last jobs.
#[derive(Debug, ToSchema)]
#[schema(as = DeadLetterJobs)]
#[expect(dead_code, reason = "describes what get_jobs writes by itself")]
pub(crate) struct JobsForm {
    jobs: Vec<JobForm>,
}

#[cfg(test)]
mod tests {
    use warren_adapter_conformance::dead_letters::letter;

    use super::*;

    fn shown(content: &str) -> WholeLetter {
        let of = letter(content.as_bytes(), 1);
        let kept = KeptLetter {
            facts: of.facts,
            revision: warren_domain::ports::Revision::NONE,
            bytes: of.content.len() as u64,
        };
        let mut content = of.content;
        content.truncate(MOST_SHOWN);
        WholeLetter::of(kept, content)
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        let long = format!("x{}", "é".repeat(MOST_SHOWN / 2));
        let letter = shown(&long);
        assert_eq!(letter.text.as_deref(), Some(&long[..MOST_SHOWN - 1]));
        assert!(letter.cut && letter.base64.is_none());
    }

    #[test]
    fn what_ends_within_a_character_by_itself_is_no_text() {
        let kept = KeptLetter {
            facts: letter(b"", 1).facts,
            revision: warren_domain::ports::Revision::NONE,
            bytes: 2,
        };
        let letter = WholeLetter::of(kept, b"x\xc3".to_vec());
        assert_eq!(
            (letter.text, letter.base64.as_deref(), letter.cut),
            (None, Some("eMM="), false)
        );
    }
}
