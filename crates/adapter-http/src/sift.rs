//! Tells at a glance that nothing in a body is grave enough to be taken now.
//!
//! Under overload, reading the records of a request only to refuse each of them takes the time that would have gone to
//! those that are taken. A severity stands in the text as it is meant, unless its letters are escaped; so a search for
//! the field finds every one of them at the speed of memory. What cannot be told this way is read as always.

use memchr::{memchr, memmem};
use warren_domain::Severity;

use crate::scan::skip_space;

const FIELD: &[u8] = b"\"severity\"";
/// Any letter may be written as one of these.
const ESCAPE: &[u8] = b"\\u";

/// Tells whether every record of a JSON body is surely less grave than `lowest`, or no message at all.
///
/// False says nothing: a field of this name among the attributes, or an escaped letter anywhere, is enough for it.
pub(crate) fn all_below(body: &[u8], lowest: Severity) -> bool {
    // What names no severity is `info`.
    if lowest <= Severity::Info || memmem::find(body, ESCAPE).is_some() {
        return false;
    }
    memmem::find_iter(body, FIELD).all(|at| severity_at(body, at + FIELD.len()).is_none_or(|s| s < lowest))
}

/// Returns the severity whose field name ends at `at`, if it names one.
fn severity_at(body: &[u8], at: usize) -> Option<Severity> {
    let colon = skip_space(body, at);
    if body.get(colon) != Some(&b':') {
        return None;
    }
    let start = skip_space(body, colon + 1);
    let text = body.get(start..)?.strip_prefix(b"\"")?;
    let text = &text[..memchr(b'"', text)?];
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use warren_domain::{Draft, MessageLimits, Timestamp};

    use super::*;

    #[test]
    fn a_body_without_a_grave_record_is_known_for_it_and_any_doubt_has_it_read() {
        for (body, below) in [
            (r#"{"body":"a"}"#, true),
            (r#"{"severity":"debug","body":"a"}{"severity" : "INFO"}"#, true),
            (r#"{"severity":"debug"}{"severity":"error"}"#, false),
            ("{\"severity\":\n\t\"Fatal\"}", false),
            (r#"{"severity":"loud"}{"severity":17}{"severity":"#, true),
            (r#"{"body":"\"severity\": \"critical\""}"#, true),
            (r#"{"attributes":{"severity":"critical"}}"#, false),
            (r#"{"sever\u0069ty":"critical"}"#, false),
            (r#"{"severity":"\u0063ritical"}"#, false),
        ] {
            assert_eq!(all_below(body.as_bytes(), Severity::Error), below, "{body}");
        }
        assert!(!all_below(br#"{"severity":"debug"}"#, Severity::Info));
    }

    fn any_letters(text: &'static str) -> impl Strategy<Value = String> {
        prop::collection::vec(0..3_u8, text.len()).prop_map(move |ways| {
            let letters = text.chars().zip(ways);
            let written = letters.map(|(letter, way)| match way {
                0 => letter.to_string(),
                1 if letter.is_ascii_lowercase() => letter.to_string(),
                _ => format!("\\u{:04x}", u32::from(letter)),
            });
            written.collect()
        })
    }

    proptest! {
        #[test]
        fn no_message_that_is_grave_enough_is_ever_overlooked(
            field in prop_oneof![any_letters("severity"), Just("severity".to_owned())],
            name in prop_oneof![
                any_letters("critical"), Just("FATAL".to_owned()), Just("warn".to_owned()), Just("trace".to_owned())
            ],
            space in "[ \t]{0,2}",
            first: bool,
        ) {
            let severity = format!("\"{field}\"{space}:{space}\"{name}\"");
            let record = if first {
                format!("{{{severity},\"body\":\"a\"}}")
            } else {
                format!("{{\"body\":\"a\",{severity}}}")
            };
            let draft = Draft::from_json(record.as_bytes()).unwrap();
            let message = draft.into_message(&MessageLimits::CEILING, Timestamp::now()).unwrap();
            for lowest in Severity::ALL {
                let taken = message.severity >= lowest;
                prop_assert!(!(taken && all_below(record.as_bytes(), lowest)), "{record} at {lowest}");
            }
        }
    }
}
