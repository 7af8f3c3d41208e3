//! Hostile requests, as data: what is sent, and what has to come of it.
//!
//! The table knows only the standard library and the compressors, so that the tests of other crates can take it in
//! by its path and send it to a whole program. A server with default limits must answer each as told here, never with
//! a 5xx and never not at all, and must serve a healthy request on the next connection.

pub(crate) mod bodies;
mod heads;
mod records;

/// One hostile request.
#[derive(Clone, Debug)]
pub(crate) struct Hostile {
    /// What is hostile about it.
    pub(crate) name: String,
    /// The bytes to send on a connection of its own.
    pub(crate) request: Vec<u8>,
    /// Whether to shut the sending side afterwards; else the connection stays open.
    pub(crate) shut: bool,
    /// What has to come of it.
    pub(crate) expect: Expect,
}

/// What has to come of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// An answer with this status; a problem document if it is an error, with all these texts in it.
    Refused {
        /// The status.
        status: u16,
        /// What the body of the answer has to contain, such as a code and a JSON pointer.
        says: Vec<String>,
    },
    /// 202, with this many messages accepted and this many records rejected.
    Taken {
        /// How many messages are stored then.
        accepted: usize,
        /// How many records are told to be wrong.
        rejected: usize,
        /// What the body of the answer has to contain.
        says: Vec<String>,
    },
    /// Any answer that is no 5xx and no 202, with this status, and nothing known of its body.
    Answered {
        /// The status.
        status: u16,
    },
}

/// The whole table.
pub(crate) fn table() -> Vec<Hostile> {
    let mut table = records::table();
    table.extend(bodies::table());
    table.extend(heads::table());
    table
}

/// Writes a request with a `Content-Length`; `headers` are whole lines without their ends.
pub(crate) fn post(target: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut request = format!("POST {target} HTTP/1.1\r\nhost: warren\r\n").into_bytes();
    for header in headers {
        request.extend_from_slice(header.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    request.extend_from_slice(body);
    request
}

const JSON: &str = "content-type: application/json";

fn owned(says: &[&str]) -> Vec<String> {
    says.iter().map(|text| (*text).to_owned()).collect()
}

fn refused(name: &str, request: Vec<u8>, status: u16, says: &[&str]) -> Hostile {
    Hostile {
        name: name.to_owned(),
        request,
        shut: false,
        expect: Expect::Refused {
            status,
            says: owned(says),
        },
    }
}

fn taken(name: &str, request: Vec<u8>, accepted: usize, rejected: usize, says: &[&str]) -> Hostile {
    let says = owned(says);
    Hostile {
        name: name.to_owned(),
        request,
        shut: false,
        expect: Expect::Taken {
            accepted,
            rejected,
            says,
        },
    }
}

fn answered(name: &str, request: impl Into<Vec<u8>>, status: u16) -> Hostile {
    Hostile {
        name: name.to_owned(),
        request: request.into(),
        shut: false,
        expect: Expect::Answered { status },
    }
}
