//! What a person sees who has just started it.

use std::net::SocketAddr;
use std::path::Path;

/// Tells where it listens, where the data lies, what to try and how to stop, on standard error.
pub(crate) fn print(address: SocketAddr, data: &Path, retention: Option<u32>) {
    eprintln!("{}", text(address, data, retention));
}

fn text(address: SocketAddr, data: &Path, retention: Option<u32>) -> String {
    let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let kept = match retention {
        None => "kept for ever".to_owned(),
        Some(1) => "kept for a day".to_owned(),
        Some(days) => format!("kept for {days} days"),
    };
    let reach = if address.ip().is_loopback() {
        "this machine only"
    } else {
        "open to the network, without keys"
    };
    let host = if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    };
    format!(
        "\n  Warren {version} takes messages at http://{host} ({reach})\n\n\
         \x20   data    {data} (SQLite, {kept})\n\
         \x20   try     curl -d '{{\"severity\":\"error\",\"body\":\"hello\"}}' http://{host}/v1/messages\n\
         \x20   docs    http://{host}/docs\n\
         \x20   stop    Ctrl-C; what was answered is kept\n",
        version = env!("CARGO_PKG_VERSION"),
        data = data.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_address_data_and_a_curl_that_works() {
        let text = text("127.0.0.1:8080".parse().unwrap(), Path::new("/data"), None);
        assert!(text.contains("/data (SQLite, kept for ever)"));
        assert!(
            text.contains(
                r#"curl -d '{"severity":"error","body":"hello"}' http://127.0.0.1:8080/v1/messages"#
            )
        );
        assert!(text.contains("this machine only"));
    }

    #[test]
    fn an_open_port_is_said_to_be_open() {
        let text = text("0.0.0.0:80".parse().unwrap(), Path::new("/data"), Some(7));
        assert!(text.contains("without keys") && text.contains("kept for 7 days"));
        assert!(text.contains("http://127.0.0.1:80/v1/messages"));
    }
}
