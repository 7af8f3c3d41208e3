//! Secrets, made unreadable before anything is printed.

/// Stands for what must not be seen.
pub(super) const MASK: &str = "***";

/// Returns `value` of the setting `key` as it may be shown.
///
/// A key that speaks of a password, secret or token shows `***` alone; the passwords inside a `…url` are
/// replaced, and the rest of it stays readable, because host and user are what an operator looks for. A `…url` that
/// is none, such as `app:s3cret@rabbit:5672`, shows `***` alone: nobody can tell where in it the password stands.
/// Every other value is treated as a possible URL too: a URL pasted into the wrong setting is still a secret.
#[must_use]
pub fn mask(key: &str, value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    if is_secret(key) || (is_url(key) && is_opaque(value)) {
        MASK.to_owned()
    } else {
        mask_urls(value, |_| false)
    }
}

/// Returns `message` without the secrets that `value`, the setting it speaks of, holds.
pub(crate) fn mask_in(message: &str, key: &str, value: &str) -> String {
    let shown = mask(key, value);
    if shown == value {
        return mask_urls(message, char::is_whitespace);
    }
    let mut message = message.to_owned();
    for value in [value, value.trim()]
        .into_iter()
        .filter(|value| !value.is_empty())
    {
        let debug = format!("{value:?}");
        message = message
            .replace(debug.trim_matches('"'), &shown)
            .replace(value, &shown);
    }
    mask_urls(&message, char::is_whitespace)
}

/// Returns the last segment of a key.
fn name(key: &str) -> String {
    key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase()
}

fn is_url(key: &str) -> bool {
    name(key).ends_with("url")
}

/// Tells whether something that may be a user or a password stands before the first `://`, or without any.
fn is_opaque(value: &str) -> bool {
    value
        .split_once("://")
        .map_or(value, |(scheme, _)| scheme)
        .contains([':', '@'])
}

fn is_secret(key: &str) -> bool {
    let name = name(key);
    // `password_file` holds the place of a secret, which is what an operator wants to see.
    !name.ends_with("_file")
        && ["password", "secret", "token", "credential"]
            .iter()
            .any(|word| name.contains(word))
}

/// Masks the password of every URL in `text`, and every `password=…` parameter. Prose ends a URL at white space; in
/// a value even that may belong to a password.
fn mask_urls(text: &str, ends: fn(char) -> bool) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        masked.push_str(before);
        let end = end_of_url(after, ends);
        masked.push_str(&mask_userinfo(&after[..end]));
        rest = &after[end..];
    }
    masked.push_str(rest);
    mask_parameters(&masked)
}

/// A URL ends where `ends` says, or at the comma before the next URL of a list.
fn end_of_url(text: &str, ends: fn(char) -> bool) -> usize {
    let end = text.find(ends).unwrap_or(text.len());
    text[..end]
        .find("://")
        .and_then(|scheme| text[..scheme].rfind(','))
        .unwrap_or(end)
}

/// Masks between the first `:` and the last `@`: a password with a raw `/`, `?` or `@` in it is a mistake that must
/// not be shown, even if that hides a part of the path as well.
fn mask_userinfo(url: &str) -> String {
    let authority = url.find(['/', '?', '#']).unwrap_or(url.len());
    let at = url[..authority].rfind('@').or_else(|| url.rfind('@'));
    match at.and_then(|at| url[..at].find(':').map(|colon| (colon, at))) {
        Some((colon, at)) => format!("{}:{MASK}{}", &url[..colon], &url[at..]),
        None => url.to_owned(),
    }
}

/// Masks `password=…`, as URLs' queries and PostgreSQL's key-value strings have it.
fn mask_parameters(text: &str) -> String {
    const NAME: &str = "password=";
    let lower = text.to_ascii_lowercase();
    let mut masked = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(found) = lower[from..].find(NAME) {
        let start = from + found + NAME.len();
        masked.push_str(&text[from..start]);
        let value = &text[start..];
        let end = match value.strip_prefix('\'') {
            Some(quoted) => quoted.find('\'').map_or(value.len(), |end| end + 2),
            None => value
                .find(|c: char| c == '&' || c.is_whitespace())
                .unwrap_or(value.len()),
        };
        if end > 0 {
            masked.push_str(MASK);
        }
        from = start + end;
    }
    masked.push_str(&text[from..]);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_shows_everything_but_its_password() {
        for (value, shown) in [
            (
                "amqp://app:s3cret@rabbit:5672/%2f",
                "amqp://app:***@rabbit:5672/%2f",
            ),
            ("amqp://rabbit:5672/%2f", "amqp://rabbit:5672/%2f"),
            (
                "amqp://a:b@one,amqps://c:d@two:1/x",
                "amqp://a:***@one,amqps://c:***@two:1/x",
            ),
            (
                "amqp://a:b,c@one,amqp://c:d@two",
                "amqp://a:***@one,amqp://c:***@two",
            ),
            ("postgres://u:a@b@h/db", "postgres://u:***@h/db"),
            ("postgres://u:a/b@h/db", "postgres://u:***@h/db"),
            (
                "postgres://u@h/db?password=x&sslmode=require",
                "postgres://u@h/db?password=***&sslmode=require",
            ),
            (
                "host=h user=u password='a b' dbname=d",
                "host=h user=u password=*** dbname=d",
            ),
            ("host=h PASSWORD=x", "host=h PASSWORD=***"),
        ] {
            assert_eq!(mask("amqp.url", value), shown);
        }
    }

    #[test]
    fn what_should_be_a_url_and_is_none_shows_nothing_that_may_be_a_password() {
        for value in [
            "app:s3cret@rabbit:5672",
            "s3cret@rabbit",
            "amqp:/app:s3cret@rabbit",
            "app:s3cret",
            "app:s3cret@one,amqp://two",
        ] {
            assert_eq!(mask("amqp.url", value), MASK, "{value}");
            assert_eq!(mask("x.proxy_URL", value), MASK, "{value}");
        }
        assert_eq!(mask("amqp.url", "rabbit"), "rabbit");
        assert_eq!(mask("http.listen", "localhost:80"), "localhost:80");
        let message = mask_in("app:s3cret@h is no URL", "amqp.url", " app:s3cret@h\n");
        assert_eq!(message, "*** is no URL");
    }

    #[test]
    fn a_key_that_names_a_secret_shows_nothing() {
        assert_eq!(mask("postgres.password", "0123"), MASK);
        assert_eq!(mask("http.api_token", "x"), MASK);
        assert_eq!(mask("http.api_token", ""), "", "an empty secret is worth seeing");
        assert_eq!(mask("postgres.password_file", "/run/secrets/p"), "/run/secrets/p");
    }

    #[test]
    fn a_secret_is_masked_inside_a_message_too() {
        let message = mask_in("cannot use \"amqp://u:p w@h\" here", "amqp.url", "amqp://u:p w@h");
        assert!(!message.contains("p w"), "{message}");
        assert_eq!(mask_in("bad value a\\\"b", "x.secret", "a\"b"), "bad value ***");
    }
}
