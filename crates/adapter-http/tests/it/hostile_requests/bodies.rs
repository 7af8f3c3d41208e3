//! Bodies that cannot be read, and codings and content types that nobody knows.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::{Hostile, JSON, answered, post, refused, taken};

const NDJSON: &str = "content-type: application/x-ndjson";
const TEXT: &str = "content-type: text/plain";
const GOOD: &[u8] = br#"{"body":"good"}"#;

pub(super) fn table() -> Vec<Hostile> {
    let mut table = malformed();
    table.extend(partly());
    table.extend(compressed());
    table.extend(types());
    table.extend(queries());
    table.extend(sizes());
    table
}

fn to_messages(headers: &[&str], body: &[u8]) -> Vec<u8> {
    post("/v1/messages", headers, body)
}

fn malformed() -> Vec<Hostile> {
    let mut table = Vec::new();
    for (name, body) in [
        ("nothing", &b""[..]),
        ("white space", b" \r\n\t "),
        ("a byte order mark", b"\xef\xbb\xbf"),
        ("an empty array", b"[]"),
        ("an empty array with space", b" [ \n ] "),
    ] {
        let name = format!("for a body, {name}");
        table.push(refused(
            &name,
            to_messages(&[JSON], body),
            400,
            &["empty-request", "\"hint\":\""],
        ));
    }
    table.push(refused(
        "only blank lines",
        to_messages(&[NDJSON], b"\n\r\n \n"),
        400,
        &["empty-request"],
    ));
    table.push(refused(
        "no text",
        to_messages(&[TEXT], b""),
        400,
        &["empty-request"],
    ));
    for (name, body, place) in [
        ("words", &b"hello"[..], "at byte 0"),
        ("HTML", b"<html><body>x</body></html>", "at byte 0"),
        ("a form", b"body=hi&severity=error", "at byte 0"),
        ("YAML", b"body: x\nseverity: info\n", "at byte 0"),
        ("a string without end", br#"{"body":"x"#, "at byte 8"),
        ("an object without end", br#"{"body":"x""#, "at byte 11"),
        ("an array without end", br#"[{"body":"x"}"#, "at byte 13"),
        (
            "an array cut off within a record",
            br#"[{"body":"x"},{"bo"#,
            "at byte 15",
        ),
        ("an escape without end", br#"{"body":"x\"#, "at byte 8"),
        ("brackets that do not match", br#"[{"body":"x"]}"#, "at byte 12"),
        ("a closing bracket", b"]", "at byte 0"),
        ("a closing brace", b"}", "at byte 0"),
        ("two arrays", br#"[{"body":"x"}][{"body":"y"}]"#, "at byte 14"),
        (
            "words behind an array",
            br#"[{"body":"x"}] and more"#,
            "at byte 15",
        ),
        ("a comma first", br#",{"body":"x"}"#, "at byte 0"),
        ("UTF-16 with a mark", b"\xff\xfe{\0\"\0", "UTF-16"),
        ("UTF-16 the other way round", b"\xfe\xff\0{\0\"", "UTF-16"),
        (
            "gzip that is not declared",
            b"\x1f\x8b\x08\x00\x00",
            "Content-Encoding: gzip",
        ),
        (
            "zstd that is not declared",
            b"\x28\xb5\x2f\xfd\x00",
            "Content-Encoding: zstd",
        ),
        ("a record separator", b"\x1e{\"body\":\"x\"}", "at byte 0"),
        ("NULs", b"\0\0\0\0", "at byte 0"),
        ("bytes of ones", b"\xff\xff\xff\xff", "at byte 0"),
        ("protobuf", b"\x0a\x05hello", "at byte 1"),
        ("half a word of JSON", b"tru", "at byte 0"),
    ] {
        let name = format!("for a body, {name}");
        table.push(refused(
            &name,
            to_messages(&[], body),
            400,
            &["malformed-body", place, "\"hint\":\""],
        ));
    }
    let bottomless = b"[".repeat(1 << 20);
    table.push(refused(
        "a MiB of opening brackets",
        to_messages(&[JSON], &bottomless),
        400,
        &["malformed-body"],
    ));
    let braces = br#"{"a":"#.repeat(200_000);
    table.push(refused(
        "200,000 opening braces",
        to_messages(&[JSON], &braces),
        400,
        &["malformed-body"],
    ));
    table
}

fn partly() -> Vec<Hostile> {
    let lines =
        b"\xef\xbb\xbf{\"body\":\"a\"}\r\n\r\n{\"body\":\r\n\xff\xfe\n{\"body\":\"b\"}\n[]\n{\"body\":\"c\"}";
    let array = b"[{\"body\":\"a\"},,nul,{\"body\":\"b\"},{\"body\":\"\xff\"},{\"body\":\"c\"},]";
    vec![
        taken(
            "lines of all kinds",
            to_messages(&[NDJSON], lines),
            3,
            3,
            &["\"index\":1", "\"index\":2", "\"index\":4"],
        ),
        taken(
            "the same without a type",
            to_messages(&[], lines),
            3,
            3,
            &["\"index\":1", "\"index\":2", "\"index\":4"],
        ),
        taken(
            "an array of all kinds",
            to_messages(&[JSON], array),
            3,
            4,
            &["\"index\":6"],
        ),
        refused(
            "lines that are one object spread out",
            to_messages(&[NDJSON], b"{\n\"body\":\"a\"\n}\n"),
            422,
            &["invalid_json"],
        ),
        refused(
            "an array in an array",
            to_messages(&[JSON], br#"[[{"body":"x"}]]"#),
            422,
            &["not_an_object"],
        ),
        refused(
            "two objects on one line",
            to_messages(&[], br#"{"body":"a"}{"body":"b"}"#),
            422,
            &["invalid_json"],
        ),
        refused(
            "a thousand bad records",
            to_messages(&[], &b"{}\n".repeat(1_000)),
            422,
            &["\"rejected\":1000", "\"errors_omitted\":900"],
        ),
        refused(
            "text that is no UTF-8",
            to_messages(&[TEXT], b"caf\xe9"),
            422,
            &["invalid_json", "at byte 3", "/body"],
        ),
        refused(
            "text over the limit of a body",
            to_messages(&[TEXT], &b"x".repeat((256 << 10) + 1)),
            422,
            &["too_large", "/body"],
        ),
        taken(
            "text that looks like JSON",
            to_messages(&[TEXT], b"[{\"body\":"),
            1,
            0,
            &["\"ids\":["],
        ),
        taken(
            "text of NULs",
            to_messages(&[TEXT], b"\0\0"),
            1,
            0,
            &["\"ids\":["],
        ),
    ]
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .unwrap_or_default()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .unwrap_or_default()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap_or_default()
}

fn wide_zstd() -> Vec<u8> {
    let mut wide = Vec::new();
    let written = zstd::stream::write::Encoder::new(&mut wide, 1).and_then(|mut encoder| {
        encoder.window_log(27)?;
        encoder.write_all(&b"x".repeat(1 << 20))?;
        encoder.finish().map(drop)
    });
    assert!(written.is_ok());
    wide
}

fn compressed() -> Vec<Hostile> {
    const GZIP: &str = "content-encoding: gzip";
    const ZSTD: &str = "content-encoding: zstd";
    const DEFLATE: &str = "content-encoding: deflate";
    let bomb = vec![b' '; 200 << 20];
    let mut table = vec![
        taken(
            "gzip in capitals",
            to_messages(&["Content-Encoding: GZIP"], &gzip(GOOD)),
            1,
            0,
            &[],
        ),
        taken(
            "gzip by its old name",
            to_messages(&["content-encoding: x-gzip"], &gzip(GOOD)),
            1,
            0,
            &[],
        ),
        taken(
            "zlib said to be gzip and deflate",
            to_messages(&["content-encoding: gzip,deflate"], &zlib(GOOD)),
            1,
            0,
            &[],
        ),
        refused(
            "a bomb of gzip",
            to_messages(&[GZIP], &gzip(&bomb)),
            413,
            &["http.max_request"],
        ),
        refused(
            "a bomb of zlib",
            to_messages(&[DEFLATE], &zlib(&bomb)),
            413,
            &["http.max_request"],
        ),
        refused(
            "a bomb of zstd",
            to_messages(&[ZSTD], &zstd(&bomb)),
            413,
            &["http.max_request"],
        ),
        refused(
            "a bomb in a bomb",
            to_messages(&[GZIP], &gzip(&gzip(&bomb))),
            400,
            &["malformed-body", "gzip"],
        ),
        refused(
            "zstd with a window of 128 MiB",
            to_messages(&[ZSTD], &wide_zstd()),
            400,
            &["malformed-encoding", "8 MiB"],
        ),
    ];
    for (name, coding, whole) in [
        ("gzip", GZIP, gzip(GOOD)),
        ("deflate", DEFLATE, zlib(GOOD)),
        ("zstd", ZSTD, zstd(GOOD)),
    ] {
        let cut = &whole[..whole.len() - 3];
        let longer = [&whole[..], b"tail"].concat();
        for (what, body) in [
            ("plain text", GOOD),
            ("a stream cut off", cut),
            ("trailing data", &longer),
        ] {
            let name = format!("{what} said to be {name}");
            table.push(refused(
                &name,
                to_messages(&[coding], body),
                400,
                &["malformed-encoding", "\"hint\":\""],
            ));
        }
        table.push(refused(
            &format!("nothing as {name}"),
            to_messages(&[coding], b""),
            400,
            &["empty-request"],
        ));
    }
    for coding in ["br", "snappy", "gzip, br", "compress", "GZIPPED", "*", "gzip;q=1"] {
        let header = format!("content-encoding: {coding}");
        let name = format!("the coding {coding}");
        table.push(refused(
            &name,
            to_messages(&[&header], GOOD),
            415,
            &["unsupported-encoding", "zstd"],
        ));
    }
    table
}

fn types() -> Vec<Hostile> {
    let mut table = Vec::new();
    for content_type in [
        "application/xml",
        "text/html",
        "image/png",
        "application/x-protobuf",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "text/plain; charset=\"iso-8859-1\"",
        "*/*",
        "json",
        "application/msgpack",
    ] {
        let header = format!("content-type: {content_type}");
        let says = ["unsupported-media-type", "application/x-ndjson"];
        table.push(refused(
            &format!("the type {content_type}"),
            to_messages(&[&header], GOOD),
            415,
            &says,
        ));
    }
    let header = format!("content-type: {}", "x".repeat(10_000));
    table.push(refused(
        "a type of 10,000 bytes",
        to_messages(&[&header], GOOD),
        415,
        &["unsupported-media-type"],
    ));
    table.push(refused(
        "a type outside ASCII",
        to_messages(&["content-type: application/jsön"], GOOD),
        415,
        &["ASCII"],
    ));
    table
}

fn queries() -> Vec<Hostile> {
    let mut table = Vec::new();
    for query in [
        "idz=true",
        "ids=maybe",
        "ids=true&ids=true",
        "severity=error",
        "source=a",
        "ids=%",
        "ids=%4",
        "ids=%zz",
        "%ff=1",
        "ids=true&%00",
        "debug",
        "body=x",
        "__proto__=1",
        "ids[]=1",
    ] {
        let request = post(&format!("/v1/messages?{query}"), &[JSON], GOOD);
        table.push(refused(
            &format!("the query {query}"),
            request,
            400,
            &["invalid-query", "\"hint\":\""],
        ));
    }
    let long = format!("/v1/messages?{}=1", "k".repeat(30_000));
    table.push(refused(
        "a query of 30,000 bytes",
        post(&long, &[], GOOD),
        400,
        &["invalid-query"],
    ));
    for (query, code, pointer) in [
        ("severity=loud", "unknown_severity", "/severity"),
        ("source=a%20b", "invalid_source", "/source"),
        ("source=%00", "invalid_source", "/source"),
        ("id=7", "invalid_id", "/id"),
        ("occurred_at=now", "invalid_timestamp", "/occurred_at"),
    ] {
        let request = post(&format!("/v1/messages?{query}"), &[TEXT], b"x");
        table.push(refused(
            &format!("text with {query}"),
            request,
            422,
            &[code, pointer],
        ));
    }
    table
}

fn sizes() -> Vec<Hostile> {
    let many = b"{\"body\":\"\"}\n".repeat(10_001);
    let mut array = b"[".to_vec();
    array.extend_from_slice(&b"{\"body\":\"\"},".repeat(10_000));
    array.extend_from_slice(b"{\"body\":\"\"}]");
    let objects = format!(
        r#"{{"body":"x","attributes":{{"a":[{}]}}}}"#,
        vec!["{\"\":0}"; 1_000_000].join(",")
    );
    let over = b" ".repeat((20 << 20) + 1);
    let mut chunked =
        b"POST /v1/messages HTTP/1.1\r\nhost: warren\r\ntransfer-encoding: chunked\r\n\r\n1500000\r\n"
            .to_vec();
    chunked.extend_from_slice(&over[..20 << 20]);
    chunked.extend_from_slice(&over[..1 << 20]);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let declared = b"POST /v1/messages HTTP/1.1\r\nhost: warren\r\ncontent-length: 99999999999\r\n\r\n";
    vec![
        refused(
            "10,001 lines",
            to_messages(&[NDJSON], &many),
            413,
            &["intake.max_messages", "10000"],
        ),
        refused(
            "an array of 10,001",
            to_messages(&[JSON], &array),
            413,
            &["intake.max_messages"],
        ),
        refused(
            "a million small objects",
            to_messages(&[JSON], objects.as_bytes()),
            413,
            &["http.max_in_flight_bytes"],
        ),
        refused(
            "a byte too much",
            to_messages(&[JSON], &over),
            413,
            &["http.max_request", "20"],
        ),
        refused("a byte too much in chunks", chunked, 413, &["http.max_request"]),
        refused(
            "a hundred gigabytes announced",
            declared.to_vec(),
            413,
            &["http.max_request"],
        ),
        answered(
            "five mebibytes to a path that is none",
            post("/nowhere", &[], &b"x".repeat(5 << 20)),
            404,
        ),
        answered(
            "five mebibytes of an unknown type",
            to_messages(&["content-type: video/mp4"], &b"x".repeat(5 << 20)),
            415,
        ),
    ]
}
