//! What a person sees who has just started it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tracing::info;

/// Where it listens, where the data lies, what to try and how to stop.
pub(crate) struct Welcome {
    address: SocketAddr,
    data: PathBuf,
    kept: String,
}

impl Welcome {
    pub(crate) fn new(address: SocketAddr, data: &Path, retention: Option<u32>) -> Self {
        let kept = match retention {
            None => "kept for ever".to_owned(),
            Some(1) => "kept for a day".to_owned(),
            Some(days) => format!("kept for {days} days"),
        };
        Self {
            address,
            data: std::path::absolute(data).unwrap_or_else(|_| data.to_owned()),
            kept,
        }
    }

    /// Tells it on standard error as a text; where the log is JSON, as fields of one line of it, which stays readable
    /// for programs.
    pub(crate) fn say(&self, as_text: bool) {
        let (address, path) = (self.address, self.data.display());
        if as_text {
            info!(%address, %path, "listening");
            eprintln!("{}", self.text());
        } else {
            let (console, docs) = (
                format!("http://{}/", self.host()),
                format!("http://{}/docs", self.host()),
            );
            info!(%address, %path, kept = self.kept, curl = self.curl(), console, docs, stop = STOP, "listening");
        }
    }

    fn text(&self) -> String {
        let reach = if self.address.ip().is_loopback() {
            "this machine only"
        } else {
            "open to the network, without keys"
        };
        format!(
            "\n  Warren {version} takes messages at http://{host} ({reach})\n\n\
             \x20   data    {data} (SQLite, {kept})\n\
             \x20   try     {curl}\n\
             \x20   look    http://{host}/\n\
             \x20   docs    http://{host}/docs\n\
             \x20   stop    {STOP}\n",
            version = env!("CARGO_PKG_VERSION"),
            host = self.host(),
            data = self.data.display(),
            kept = self.kept,
            curl = self.curl(),
        )
    }

    fn curl(&self) -> String {
        format!(
            "curl -d '{{\"severity\":\"error\",\"body\":\"hello\"}}' http://{}/v1/messages",
            self.host()
        )
    }

    /// Returns how this machine reaches it.
    fn host(&self) -> String {
        if self.address.ip().is_unspecified() {
            format!("127.0.0.1:{}", self.address.port())
        } else {
            self.address.to_string()
        }
    }
}

const STOP: &str = "Ctrl-C; what was answered is kept";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_address_data_and_a_curl_that_works() {
        let text = Welcome::new("127.0.0.1:8080".parse().unwrap(), Path::new("/data"), None).text();
        assert!(text.contains("/data (SQLite, kept for ever)"));
        assert!(
            text.contains(
                r#"curl -d '{"severity":"error","body":"hello"}' http://127.0.0.1:8080/v1/messages"#
            )
        );
        assert!(text.contains("look    http://127.0.0.1:8080/\n"));
        assert!(text.contains("this machine only"));
    }

    #[test]
    fn an_open_port_is_said_to_be_open() {
        let text = Welcome::new("0.0.0.0:80".parse().unwrap(), Path::new("/data"), Some(7)).text();
        assert!(text.contains("without keys") && text.contains("kept for 7 days"));
        assert!(text.contains("http://127.0.0.1:80/v1/messages"));
    }
}
