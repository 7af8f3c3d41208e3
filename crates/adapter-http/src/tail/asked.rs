//! What a request to watch asks for.

use axum::http::{HeaderMap, HeaderName};
use warren_pipeline::tail::{Cursor, Wanted};

use super::form::Form;
use crate::accept;
use crate::messages::{Given, wrong};
use crate::problem::Problem;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What a request to watch asks for.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) wanted: Wanted,
    pub(super) from: Option<Cursor>,
    pub(super) form: Form,
}

impl Watch {
    /// Reads the query and the headers.
    pub(super) fn parse(query: Option<&str>, headers: &HeaderMap) -> Result<Self, Problem> {
        let mut given = Given::read(query, &["severity", "source", "q", "last_event_id"])?;
        // A browser that connects again sends the header; what is in the address is from before.
        let header = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty());
        let last = match header {
            None => given.take("last_event_id").filter(|text| !text.is_empty()),
            Some(value) => Some(String::from_utf8_lossy(value.as_bytes()).into_owned()),
        };
        Ok(Self {
            from: last
                .map(|text| text.parse().map_err(|error| wrong("last_event_id", &text, error)))
                .transpose()?,
            wanted: Wanted {
                selection: given.selection()?,
                query: given.search_text()?,
            },
            form: form(headers),
        })
    }
}

/// Returns the form that `Accept` asks for: lines of JSON where they are named, else server-sent events.
fn form(headers: &HeaderMap) -> Form {
    if accept::names(headers, "application/x-ndjson") {
        Form::Lines
    } else {
        Form::Events
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use axum::http::header::ACCEPT;
    use warren_domain::SourcePattern;

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_request_says_what_it_wants_and_in_which_form() {
        let query = "severity=warning%2B&source=billing.%23,shop.*&q=card+declined";
        let accept = headers(ACCEPT, "text/html, application/x-ndjson;q=0.5");
        let watch = Watch::parse(Some(query), &accept).unwrap();
        assert_eq!(watch.form, Form::Lines);
        assert_eq!(watch.wanted.selection.severities, "warning+".parse().unwrap());
        let patterns = watch.wanted.selection.sources.iter();
        assert_eq!(
            patterns.map(SourcePattern::as_str).collect::<Vec<_>>(),
            ["billing.#", "shop.*"]
        );
        assert_eq!(watch.wanted.query, "card declined".parse().unwrap());
        assert_eq!(watch.from, None);
        for accept in ["*/*", "text/event-stream", ""] {
            let watch = Watch::parse(Some("last_event_id="), &headers(ACCEPT, accept)).unwrap();
            assert_eq!((watch.form, watch.from), (Form::Events, None), "{accept}");
        }
    }

    #[test]
    fn the_header_of_a_browser_that_comes_back_is_newer_than_its_address() {
        let query = "last_event_id=1-1-0-0-0-0-0-0-0-0-0";
        let from = |headers| Watch::parse(Some(query), &headers).unwrap().from;
        assert_eq!(from(HeaderMap::new()), "1-1-0-0-0-0-0-0-0-0-0".parse().ok());
        let header = headers(LAST_EVENT_ID, "1-2-0-0-0-3-0-0-0-0-0");
        assert_eq!(from(header), "1-2-0-0-0-3-0-0-0-0-0".parse().ok());
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        let many = format!("source={}", ["a"; 101].join(","));
        for (query, name) in [
            ("severity=loud", "severity"),
            ("severity=", "severity"),
            ("source=a,,b", "source"),
            (&many, "source"),
            ("q=%ff", "q"),
            ("q=severity:loud", "q"),
            ("q=a&q=b", "q"),
            ("last_event_id=7", "last_event_id"),
            ("limit=5", "limit"),
        ] {
            let problem = Watch::parse(Some(query), &HeaderMap::new()).unwrap_err();
            let detail = problem.document().detail().to_owned();
            assert!(detail.contains(name), "{query}: {detail}");
        }
        let header = headers(LAST_EVENT_ID, "what");
        assert!(Watch::parse(None, &header).is_err());
    }
}
