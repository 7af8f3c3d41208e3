//! Requests that are no requests, and requests for what is not there.

use super::{Expect, Hostile, answered, post, refused, taken};

const GOOD: &[u8] = br#"{"body":"good"}"#;

pub(super) fn table() -> Vec<Hostile> {
    let mut table = no_requests();
    table.extend(heads());
    table.extend(paths());
    table
}

/// Bytes that hyper refuses before any handler sees them.
fn no_requests() -> Vec<Hostile> {
    let mut table = Vec::new();
    for (name, request) in [
        ("words", &b"hello, is this a server?\r\n\r\n"[..]),
        (
            "a TLS greeting",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        ),
        ("NULs", b"\0\0\0\0\0\0\0\0\r\n\r\n"),
        ("no path", b"GET HTTP/1.1\r\n\r\n"),
        ("no version", b"GET /livez\r\n\r\n"),
        ("HTTP/3.0", b"GET /livez HTTP/3.0\r\nhost: w\r\n\r\n"),
        ("a word for a version", b"GET /livez FTP/1.1\r\nhost: w\r\n\r\n"),
        (
            "a header without a colon",
            b"GET /livez HTTP/1.1\r\nhost w\r\n\r\n",
        ),
        (
            "a space before a colon",
            b"GET /livez HTTP/1.1\r\nhost : w\r\n\r\n",
        ),
        (
            "a header that goes on in the next line",
            b"GET /livez HTTP/1.1\r\nhost: w\r\n x: y\r\n\r\n",
        ),
        (
            "a NUL in a header",
            b"GET /livez HTTP/1.1\r\nhost: w\r\nx: a\0b\r\n\r\n",
        ),
        (
            "a bare carriage return in a header",
            b"GET /livez HTTP/1.1\r\nhost: w\r\nx: a\rb\r\n\r\n",
        ),
        (
            "a header name outside the alphabet",
            b"GET /livez HTTP/1.1\r\nh\xc3\xb6st: w\r\n\r\n",
        ),
        ("an empty header name", b"GET /livez HTTP/1.1\r\n: w\r\n\r\n"),
        (
            "a length below zero",
            b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ncontent-length: -1\r\n\r\n",
        ),
        (
            "a length that is a word",
            b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ncontent-length: many\r\n\r\n",
        ),
        (
            "a length with a plus",
            b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ncontent-length: +5\r\n\r\nhello",
        ),
        (
            "a length beyond 64 bits",
            b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ncontent-length: 99999999999999999999\r\n\r\n",
        ),
        (
            "two lengths",
            b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        ),
        (
            "an unknown transfer coding",
            b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ntransfer-encoding: gzip\r\n\r\n",
        ),
        (
            "chunks that are not the last coding",
            b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        ),
        ("a path with a space", b"GET /a b HTTP/1.1\r\nhost: w\r\n\r\n"),
        (
            "a path with a control character",
            b"GET /a\x01b HTTP/1.1\r\nhost: w\r\n\r\n",
        ),
        ("no path but a word", b"GET livez? HTTP/1.1\r\nhost: w\r\n\r\n"),
    ] {
        let name = format!("instead of a request, {name}");
        table.push(refused(
            &name,
            request.to_vec(),
            400,
            &["malformed-request", "\"hint\":\""],
        ));
    }
    let header = format!(
        "GET /livez HTTP/1.1\r\nhost: w\r\nx: {}\r\n\r\n",
        "y".repeat(70_000)
    );
    let says = ["headers-too-large", "64 KiB", "100 headers"];
    table.push(refused("a header of 70,000 bytes", header.into(), 431, &says));
    let headers: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    let path = format!("GET /{} HTTP/1.1\r\nhost: w\r\n\r\n", "a".repeat(70_000));
    table.push(refused("a path of 70,000 bytes", path.into(), 431, &says));
    table.push(refused(
        "101 headers",
        format!("GET /livez HTTP/1.1\r\n{headers}\r\n").into(),
        431,
        &says,
    ));
    let endless = format!(
        "GET /livez HTTP/1.1\r\nhost: w\r\n{}",
        "x: yyyyyyyyyyyyyyyyyyyy\r\n".repeat(20_000)
    );
    table.push(refused("headers without end", endless.into(), 431, &says));
    table
}

fn heads() -> Vec<Hostile> {
    let short =
        b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ncontent-length: 100\r\n\r\n{\"body\":\"x\"}".to_vec();
    let chunk = |chunks: &[u8]| {
        [
            b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n",
            chunks,
        ]
        .concat()
    };
    let broken = |name: &str, request: Vec<u8>| Hostile {
        shut: true,
        ..refused(name, request, 400, &["malformed-body", "broke off"])
    };
    let mut table = vec![
        broken("a body shorter than its length", short),
        broken("chunks that end too early", chunk(b"c\r\n{\"body\":\"x\"}\r\n")),
        broken(
            "a chunk of an impossible size",
            chunk(b"zz\r\nhello\r\n0\r\n\r\n"),
        ),
        broken(
            "a chunk of a size beyond 64 bits",
            chunk(b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ),
        broken("a chunk longer than its size", chunk(b"2\r\nhello\r\n0\r\n\r\n")),
        taken(
            "a body in chunks of a byte",
            chunk(&[one_by_one(GOOD), b"0\r\n\r\n".to_vec()].concat()),
            1,
            0,
            &[],
        ),
        taken(
            "chunks with a trailer",
            chunk(b"f\r\n{\"body\":\"good\"}\r\n0\r\nx: y\r\n\r\n"),
            1,
            0,
            &[],
        ),
        taken(
            "a traceparent that is none",
            post("/v1/messages", &["traceparent: 00-zz-zz-zz"], GOOD),
            1,
            0,
            &[],
        ),
        taken(
            "a hundred traceparents' worth of one",
            post(
                "/v1/messages",
                &[&format!("traceparent: {}", "0".repeat(5_000))],
                GOOD,
            ),
            1,
            0,
            &[],
        ),
        taken(
            "an Accept for nothing there is",
            post("/v1/messages", &["accept: image/webp;q=0"], GOOD),
            1,
            0,
            &[],
        ),
        taken(
            "a request id of 10,000 bytes",
            post(
                "/v1/messages",
                &[&format!("x-request-id: {}", "r".repeat(10_000))],
                GOOD,
            ),
            1,
            0,
            &[],
        ),
        taken(
            "an expectation",
            post("/v1/messages", &["expect: 200-maybe"], GOOD),
            1,
            0,
            &[],
        ),
        taken(
            "a forwarded address of somebody else",
            post("/v1/messages", &["x-forwarded-for: 127.0.0.1"], GOOD),
            1,
            0,
            &[],
        ),
        taken(
            "HTTP/1.0 without a host",
            [b"POST /v1/messages HTTP/1.0\r\ncontent-length: 15\r\n\r\n", GOOD].concat(),
            1,
            0,
            &[],
        ),
        taken(
            "a key with every byte that a header may hold",
            post(
                "/v1/messages",
                &["Idempotency-Key: \t !\"#,;=\\~\u{e9}\u{2603} k \t"],
                GOOD,
            ),
            1,
            0,
            &[],
        ),
        taken(
            "the longest key",
            post(
                "/v1/messages",
                &[&format!("Idempotency-Key: {}", "k".repeat(255))],
                GOOD,
            ),
            1,
            0,
            &[],
        ),
        refused(
            "a key that is too long",
            post(
                "/v1/messages",
                &[&format!("Idempotency-Key: {}", "k".repeat(256))],
                GOOD,
            ),
            400,
            &["invalid-header", "Idempotency-Key", "256", "255"],
        ),
        refused(
            "a key with a control character",
            post("/v1/messages", &["Idempotency-Key: k\u{1}"], GOOD),
            400,
            &["malformed-request"],
        ),
        refused(
            "two keys",
            post(
                "/v1/messages",
                &["Idempotency-Key: k", "idempotency-key: k"],
                GOOD,
            ),
            400,
            &["invalid-header", "Idempotency-Key", "more than once"],
        ),
        refused(
            "an empty key",
            post("/v1/messages", &["Idempotency-Key: "], GOOD),
            400,
            &["invalid-header", "Idempotency-Key", "0 bytes"],
        ),
        refused(
            "HTTP/1.1 without a host",
            [b"POST /v1/messages HTTP/1.1\r\ncontent-length: 15\r\n\r\n", GOOD].concat(),
            400,
            &["malformed-request", "Host"],
        ),
        refused(
            "two hosts",
            post("/v1/messages", &["host: other"], GOOD),
            400,
            &["malformed-request", "Host"],
        ),
        refused(
            "a post without a body",
            b"POST /v1/messages HTTP/1.1\r\nhost: w\r\n\r\n".to_vec(),
            400,
            &["empty-request"],
        ),
    ];
    // A length beside chunks is how requests are smuggled past a proxy: the chunks count, and the connection ends.
    let smuggled =
        b"POST /v1/messages HTTP/1.1\r\nhost: w\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
        0\r\n\r\nGET /v1/secret HTTP/1.1\r\nhost: w\r\n\r\n";
    table.push(Hostile {
        name: "a length beside chunks".to_owned(),
        request: smuggled.to_vec(),
        shut: true,
        expect: Expect::Answered { status: 400 },
    });
    table
}

fn one_by_one(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|byte| [b"1\r\n", &[*byte][..], b"\r\n"].concat())
        .collect()
}

fn paths() -> Vec<Hostile> {
    let mut table = Vec::new();
    for (path, near) in [
        ("/messages", "/v1/messages"),
        ("/v1/messages/", "/v1/messages"),
        ("//v1/messages", "/v1/messages"),
        ("/V1/Messages", "/v1/messages"),
        ("/v1/mesages", "/v1/messages"),
        ("/v1/messages%00", "hint"),
        ("/v1%2fmessages", "hint"),
        ("/../../etc/passwd", "hint"),
        ("/v1/messages/../../livez", "/livez"),
        ("/docs/../../../etc/passwd", "hint"),
        ("/docs/%2e%2e/%2e%2e/Cargo.toml", "hint"),
        ("/docs/nothing.js", "/docs/"),
        ("/%ff%fe", "hint"),
        ("/.env", "hint"),
        ("/admin", "hint"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: w\r\n\r\n").into_bytes();
        table.push(refused(
            &format!("the path {path}"),
            request,
            404,
            &["not-found", near],
        ));
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: w\r\n\r\n", "a/".repeat(15_000));
    table.push(refused(
        "a path of 30,000 bytes",
        long.into(),
        404,
        &["not-found"],
    ));
    // GET is for those servers that find messages again.
    for method in ["PUT", "DELETE", "PATCH", "TRACE", "get", "PROPFIND", "X"] {
        let request = format!("{method} /v1/messages HTTP/1.1\r\nhost: w\r\n\r\n").into_bytes();
        let name = format!("the method {method}");
        table.push(refused(&name, request, 405, &["method-not-allowed", "Allow"]));
    }
    table.push(refused(
        "a post to the metrics",
        post("/metrics", &[], GOOD),
        405,
        &["method-not-allowed"],
    ));
    table.push(answered(
        "a tunnel",
        "CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n",
        404,
    ));
    table.push(answered(
        "an upgrade of nothing",
        "GET /nowhere HTTP/1.1\r\nhost: w\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        404,
    ));
    table.push(answered(
        "HTTP/2 by surprise",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        400,
    ));
    table
}
