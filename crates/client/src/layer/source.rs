//! A target as a source.

use warren_domain::Source;

/// Makes the source of a target: `::` becomes a dot, what no source may hold becomes `_`, the rest is cut off.
///
/// It stands behind `own`, unless that is the default or the target begins with it anyway.
pub(super) fn source_of(own: &Source, target: &str) -> Source {
    let mut text = String::with_capacity(own.as_str().len() + target.len() + 1);
    for segment in target.split("::").flat_map(|part| part.split('.')) {
        if segment.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push('.');
        }
        let fits = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
        text.extend(
            segment
                .chars()
                .map(|character| if fits(character) { character } else { '_' }),
        );
    }
    let below = text
        .strip_prefix(own.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    if text.is_empty() {
        return own.clone();
    }
    if !below && *own != Source::default() {
        text.insert(0, '.');
        text.insert_str(0, own.as_str());
    }
    text.truncate(Source::MAX_BYTES);
    // It is a source now, but for a dot where it was cut.
    text.trim_end_matches('.').parse().unwrap_or_else(|_| own.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(own: &str, target: &str) -> String {
        source_of(&own.parse().unwrap(), target).to_string()
    }

    #[test]
    fn a_target_becomes_a_source_behind_the_loggers_own() {
        assert_eq!(text("default", "billing::api"), "billing.api");
        assert_eq!(text("shop", "billing::api"), "shop.billing.api");
        assert_eq!(text("shop", "shop::web"), "shop.web");
        assert_eq!(text("shop", "shop"), "shop");
        assert_eq!(text("shop", "shopping::cart"), "shop.shopping.cart");
    }

    #[test]
    fn whatever_a_target_holds_a_source_comes_out() {
        assert_eq!(text("default", ""), "default");
        assert_eq!(text("shop", "::"), "shop");
        assert_eq!(text("default", "a b::ü.*#"), "a_b._.__");
        assert_eq!(text("default", "..a...b::::c."), "a.b.c");
        let long = text("shop", &"x".repeat(300));
        assert_eq!(long.len(), Source::MAX_BYTES);
        let dotted = text("default", &format!("{}::rest", "x".repeat(199)));
        assert_eq!(dotted, "x".repeat(199));
    }
}
