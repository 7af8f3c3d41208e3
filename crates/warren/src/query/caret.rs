//! What is wrong with a search text, shown in it.

use warren_process::telemetry::escape::Escaped;

use crate::server::InvalidParameter;

/// How many characters are shown before what is wrong, of it, and behind it: a line has to fit a terminal.
const BESIDE: usize = 30;
const AT: usize = 40;

/// Writes the search text, or what is around the fault of a long one, with a caret under what is wrong, and what to do; of
/// another parameter only that.
pub(super) fn pointed_at(invalid: &InvalidParameter, text: Option<&str>) -> String {
    let (Some(text), Some((column, length)), "q") = (text, invalid.place, invalid.parameter.as_str()) else {
        return format!("error: {invalid}");
    };
    let from = column.saturating_sub(1);
    let end = from + length.max(1);
    let (before, _) = shown(text, from.saturating_sub(BESIDE), from);
    let (at, cut) = shown(text, from, end.min(from + AT));
    let (after, more) = if end > from + AT {
        (String::new(), cut)
    } else {
        shown(text, end, end + BESIDE)
    };
    let (left, right) = (if from > BESIDE { "…" } else { "" }, if more { "…" } else { "" });
    let gap = " ".repeat(left.chars().count() + before.chars().count());
    let carets = "^".repeat(at.chars().count().max(1));
    format!("error: {invalid}\n\n  {left}{before}{at}{after}{right}\n  {gap}{carets}")
}

/// Returns some characters of a text, as wide as they are shown: what is hostile is longer when it is escaped; and whether
/// others follow.
fn shown(text: &str, from: usize, end: usize) -> (String, bool) {
    let mut rest = text.chars().skip(from);
    let part: String = rest.by_ref().take(end.saturating_sub(from)).collect();
    (Escaped(&part).to_string(), rest.next().is_some())
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

    #[test]
    fn of_a_long_text_what_is_around_the_fault_is_shown() {
        let (x, y) = ("x".repeat(30), "y".repeat(30));
        let long = format!("card x{x}loud{y}y");
        let shown = format!(
            "error: no such severity; use error\n\n  …{x}loud{y}…\n  {}^^^^",
            " ".repeat(31)
        );
        assert_eq!(pointed("q", Some((37, 4)), &long), shown);
        let shown = format!("…{x}{}…\n  {}{}", "(".repeat(40), " ".repeat(31), "^".repeat(40));
        let all = format!("{}{}", "x".repeat(2_048), "(".repeat(8_000));
        assert!(pointed("q", Some((2_049, 8_000)), &all).ends_with(&shown));
    }
}
