//! What is wrong with a search text, shown in it.

use warren_process::telemetry::escape::Escaped;

use crate::server::InvalidParameter;

/// Writes the search text with a caret under what is wrong, and what to do; of another parameter only that.
pub(super) fn pointed_at(invalid: &InvalidParameter, text: Option<&str>) -> String {
    let (Some(text), Some((column, length)), "q") = (text, invalid.place, invalid.parameter.as_str()) else {
        return format!("error: {invalid}");
    };
    // As wide as they are shown: what is hostile is longer when it is escaped.
    let shown = |from: usize, count: usize| -> String {
        let part: String = text.chars().skip(from).take(count).collect();
        Escaped(&part).to_string()
    };
    let before = shown(0, column.saturating_sub(1));
    let at = shown(column.saturating_sub(1), length.max(1));
    let after = shown(column.saturating_sub(1) + length.max(1), usize::MAX);
    let gap = " ".repeat(before.chars().count());
    let carets = "^".repeat(at.chars().count().max(1));
    format!("error: {invalid}\n\n  {before}{at}{after}\n  {gap}{carets}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointed(parameter: &str, place: Option<(usize, usize)>, text: &str) -> String {
        let invalid = InvalidParameter::new(parameter, place, "no such severity", "use error");
        pointed_at(&invalid, Some(text))
    }

    #[test]
    fn the_caret_stands_under_what_is_wrong() {
        assert_eq!(
            pointed("q", Some((6, 13)), "card severity:loud x"),
            "error: no such severity; use error\n\n  card severity:loud x\n       ^^^^^^^^^^^^^"
        );
        // At the end of the text, behind what is wider than it is long, and where nothing can be pointed at.
        assert!(pointed("q", Some((5, 0)), "card").ends_with("\n  card\n      ^"));
        assert!(pointed("q", Some((3, 1)), "\u{1b}äx").ends_with("\n  \\u{1b}äx\n         ^"));
        assert_eq!(pointed("q", None, "card"), "error: no such severity; use error");
        assert_eq!(
            pointed("from", Some((1, 1)), "card"),
            "error: no such severity; use error"
        );
    }
}
