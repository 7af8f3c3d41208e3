//! What a client takes, as its `Accept` has it.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// Tells whether `Accept` names a media type, and not only to refuse it. A wildcard names none: programs such as curl take
/// whatever comes.
pub(crate) fn names(headers: &HeaderMap, media_type: &str) -> bool {
    let accepted = headers.get_all(ACCEPT).iter();
    let mut ranges = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    ranges.any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|range| range.eq_ignore_ascii_case(media_type));
        named && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_type_is_for_whoever_names_it() {
        for (accept, named) in [
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                true,
            ),
            ("application/json, TEXT/HTML;q=0.5", true),
            ("text/html;q=0, */*", false),
            ("*/*", false),
            ("text/*", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(names(&headers, "text/html"), named, "{accept}");
        }
        assert!(!names(&HeaderMap::new(), "text/html"));
    }
}
