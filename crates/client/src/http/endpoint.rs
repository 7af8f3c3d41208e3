//! Where requests go, and as whom.

use reqwest::Url;
use reqwest::header::HeaderValue;

use super::HttpPublisherError;

/// Takes the credentials out of the base URL, appends the route.
pub(super) fn endpoint(base: &str) -> Result<(Url, Option<HeaderValue>), HttpPublisherError> {
    let bad = |problem| HttpPublisherError::Base(problem);
    let mut url = Url::parse(base).map_err(|_| bad("is no URL; write it as http://127.0.0.1:8080"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(bad("must begin with http:// or https:// and name a host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("must end with its path: no query, no fragment"));
    }
    let authorization = if url.username().is_empty() && url.password().is_none() {
        None
    } else {
        Some(basic(&url).ok_or_else(|| bad("holds credentials that are not UTF-8"))?)
    };
    // Both only fail for URLs without a host.
    if url
        .set_username("")
        .and_then(|()| url.set_password(None))
        .is_err()
    {
        return Err(bad("must name a host"));
    }
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(["v1", "messages"]);
    }
    Ok((url, authorization))
}

fn basic(url: &Url) -> Option<HeaderValue> {
    let user = percent_decode(url.username())?;
    let password = percent_decode(url.password().unwrap_or_default())?;
    let pair = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        format!("{user}:{password}"),
    );
    let mut value = HeaderValue::from_str(&format!("Basic {pair}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_stands_behind_the_base_and_credentials_become_a_header() {
        let (url, header) = endpoint("https://us%40er:p%C3%A4ss@logs.example:8443/warren/").unwrap();
        assert_eq!(url.as_str(), "https://logs.example:8443/warren/v1/messages");
        // "us@er:päss"
        let header = header.unwrap();
        assert_eq!(header, "Basic dXNAZXI6cMOkc3M=");
        assert!(header.is_sensitive());
        let (url, header) = endpoint("http://127.0.0.1:8080").unwrap();
        assert_eq!(url.as_str(), "http://127.0.0.1:8080/v1/messages");
        assert!(header.is_none());
    }
}
