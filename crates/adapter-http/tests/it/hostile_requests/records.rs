//! Records that are no messages, and messages that are hard to keep.

use super::{Hostile, JSON, post, refused, taken};

/// Each is posted alone (422), and between two good ones (202 with one rejected).
pub(super) fn table() -> Vec<Hostile> {
    let mut table = Vec::new();
    for (name, record, code, pointer) in invalid() {
        let code = format!("\"code\":\"{code}\"");
        let pointer = format!("\"pointer\":\"{pointer}\"");
        let says = [code.as_str(), pointer.as_str(), "\"hint\":\"", "\"detail\":\""];
        table.push(refused(&name, post("/v1/messages", &[JSON], &record), 422, &says));
        if record.len() < 10_000 {
            let among = [
                b"[{\"body\":\"before\"},",
                &record[..],
                b",{\"body\":\"behind\"}]",
            ]
            .concat();
            let name = format!("{name}, between two good ones");
            let says = [code.as_str(), pointer.as_str(), "\"index\":1"];
            table.push(taken(&name, post("/v1/messages", &[JSON], &among), 2, 1, &says));
        }
    }
    // Reading ends at the deepest level that a setting allows, so that no record can use up the stack.
    let bottomless = post("/v1/messages", &[JSON], &nested(100_000));
    let says = ["too_deep", "no setting allows", "/attributes/a/0/0/"];
    table.push(refused("attributes without a bottom", bottomless, 422, &says));
    for (name, record) in valid() {
        table.push(taken(
            name,
            post("/v1/messages?ids=true", &[JSON], record.as_bytes()),
            1,
            0,
            &["\"ids\":[\""],
        ));
    }
    table
}

/// A record whose attributes have so many levels.
fn nested(levels: usize) -> Vec<u8> {
    let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
    format!(r#"{{"body":"x","attributes":{{"a":{open}{close}}}}}"#).into()
}

type Invalid = (String, Vec<u8>, &'static str, String);

fn invalid() -> Vec<Invalid> {
    let mut records: Vec<Invalid> = TEXTS
        .iter()
        .map(|(name, record, code, pointer)| {
            (
                (*name).to_owned(),
                record.as_bytes().to_vec(),
                *code,
                (*pointer).to_owned(),
            )
        })
        .collect();
    let mut add = |name: &str, record: Vec<u8>, code, pointer: &str| {
        records.push((name.to_owned(), record, code, pointer.to_owned()));
    };
    for (name, bytes) in [
        ("a byte that is no UTF-8", &b"\xff"[..]),
        ("an overlong NUL", b"\xc0\x80"),
        ("a surrogate in UTF-8", b"\xed\xa0\x80"),
        ("half a character", b"\xe2\x82"),
        ("a character beyond Unicode", b"\xf4\x90\x80\x80"),
        ("a newline within a string", b"\n"),
        ("a NUL within a string", b"\0"),
        ("an escape character within a string", b"\x1b[2J"),
    ] {
        add(
            name,
            [b"{\"body\":\"", bytes, b"\"}"].concat(),
            "invalid_json",
            "/body",
        );
    }
    let text = |length: usize| "x".repeat(length);
    add(
        "a body over its limit",
        format!(r#"{{"body":"{}"}}"#, text((256 << 10) + 1)).into(),
        "too_large",
        "/body",
    );
    add(
        "a body over its limit, once its escapes are read",
        format!(r#"{{"body":"{}"}}"#, r"\u00e9".repeat(140_000)).into(),
        "too_large",
        "/body",
    );
    add(
        "attributes over their limit",
        format!(r#"{{"body":"x","attributes":{{"a":"{}"}}}}"#, text(64 << 10)).into(),
        "too_large",
        "/attributes",
    );
    let keys: Vec<_> = (0..10_000).map(|key| format!("\"k{key}\":{key}")).collect();
    add(
        "ten thousand keys",
        format!(r#"{{"body":"x","attributes":{{{}}}}}"#, keys.join(",")).into(),
        "too_large",
        "/attributes",
    );
    add(
        "a source of 201 bytes",
        format!(r#"{{"body":"x","source":"{}"}}"#, text(201)).into(),
        "invalid_source",
        "/source",
    );
    add(
        "a severity of 100 KiB",
        format!(r#"{{"body":"x","severity":"{}"}}"#, text(100 << 10)).into(),
        "unknown_severity",
        "/severity",
    );
    let deep = "/attributes/a".to_owned() + &"/0".repeat(31);
    add("attributes of 33 levels", nested(33), "too_deep", &deep);
    records
}

const TEXTS: &[(&str, &str, &str, &str)] = &[
    ("an empty object", "{}", "missing_field", "/body"),
    (
        "a body that is null",
        r#"{"body":null}"#,
        "missing_field",
        "/body",
    ),
    ("a body that is a number", r#"{"body":42}"#, "wrong_type", "/body"),
    ("a body that is true", r#"{"body":true}"#, "wrong_type", "/body"),
    (
        "a body that is an array",
        r#"{"body":["x"]}"#,
        "wrong_type",
        "/body",
    ),
    (
        "a body that is an object",
        r#"{"body":{"x":1}}"#,
        "wrong_type",
        "/body",
    ),
    ("a number", "42", "not_an_object", ""),
    ("a string", r#""text""#, "not_an_object", ""),
    ("null", "null", "not_an_object", ""),
    (
        "a lone high surrogate",
        r#"{"body":"\ud800"}"#,
        "invalid_json",
        "/body",
    ),
    (
        "a lone low surrogate",
        r#"{"body":"\udc00x"}"#,
        "invalid_json",
        "/body",
    ),
    (
        "surrogates in the wrong order",
        r#"{"body":"\udc00\ud800"}"#,
        "invalid_json",
        "/body",
    ),
    (
        "a lone surrogate in an attribute",
        r#"{"body":"x","attributes":{"a":"\ud83d"}}"#,
        "invalid_json",
        "/attributes/a",
    ),
    ("an unknown escape", r#"{"body":"\x41"}"#, "invalid_json", "/body"),
    ("half an escape", r#"{"body":"\u12"}"#, "invalid_json", "/body"),
    (
        "NaN",
        r#"{"body":"x","attributes":{"n":NaN}}"#,
        "invalid_json",
        "/attributes/n",
    ),
    (
        "Infinity",
        r#"{"body":"x","attributes":{"n":Infinity}}"#,
        "invalid_json",
        "/attributes/n",
    ),
    (
        "minus Infinity",
        r#"{"body":"x","attributes":{"n":-Infinity}}"#,
        "invalid_json",
        "/attributes/n",
    ),
    (
        "a number beyond a double",
        r#"{"body":"x","attributes":{"n":1e400}}"#,
        "invalid_json",
        "/attributes/n",
    ),
    (
        "a number beyond a double, below zero",
        r#"{"body":"x","attributes":{"n":-1e400}}"#,
        "invalid_json",
        "/attributes/n",
    ),
    (
        "a number of 131,072 digits in ten bytes",
        r#"{"body":"x","attributes":{"n":1e131071}}"#,
        "invalid_json",
        "/attributes/n",
    ),
    (
        "a number with a leading zero",
        r#"{"body":"x","attributes":{"n":01}}"#,
        "invalid_json",
        "/attributes/n",
    ),
    (
        "a number with a plus",
        r#"{"body":"x","attributes":{"n":+1}}"#,
        "invalid_json",
        "/attributes/n",
    ),
    (
        "a number without its first digit",
        r#"{"body":"x","attributes":{"n":.5}}"#,
        "invalid_json",
        "/attributes/n",
    ),
    (
        "a hexadecimal number",
        r#"{"body":"x","attributes":{"n":0x10}}"#,
        "invalid_json",
        "/attributes",
    ),
    (
        "a body of single quotes",
        "{\"body\":'x'}",
        "invalid_json",
        "/body",
    ),
    ("a key without quotes", r#"{body:"x"}"#, "invalid_json", ""),
    ("a comma at the end", r#"{"body":"x",}"#, "invalid_json", ""),
    ("a comment", r#"{"body":"x"/*y*/}"#, "invalid_json", ""),
    ("no colon", r#"{"body" "x"}"#, "invalid_json", "/body"),
    (
        "an unknown field",
        r#"{"body":"x","message":"y"}"#,
        "unknown_field",
        "/message",
    ),
    (
        "a field in another letter case",
        r#"{"Body":"x"}"#,
        "unknown_field",
        "/Body",
    ),
    (
        "a prototype",
        r#"{"body":"x","__proto__":{"admin":true}}"#,
        "unknown_field",
        "/__proto__",
    ),
    (
        "a body twice",
        r#"{"body":"x","body":"y"}"#,
        "duplicate_field",
        "/body",
    ),
    (
        "a body twice, once in disguise",
        r#"{"body":"x","b\u006fdy":"y"}"#,
        "duplicate_field",
        "/body",
    ),
    (
        "an attribute twice",
        r#"{"body":"x","attributes":{"a":{"b":1,"b":2}}}"#,
        "duplicate_field",
        "/attributes/a/b",
    ),
    (
        "attributes that NUL makes equal",
        "{\"body\":\"x\",\"attributes\":{\"a\\u0000\":1,\"a\\ufffd\":2}}",
        "duplicate_field",
        "/attributes/a\u{fffd}",
    ),
    (
        "a received_at",
        r#"{"body":"x","received_at":"2026-11-22T13:00:00Z"}"#,
        "read_only_field",
        "/received_at",
    ),
    (
        "an unknown severity",
        r#"{"body":"x","severity":"loud"}"#,
        "unknown_severity",
        "/severity",
    ),
    (
        "an empty severity",
        r#"{"body":"x","severity":""}"#,
        "unknown_severity",
        "/severity",
    ),
    (
        "a severity that is a number",
        r#"{"body":"x","severity":3}"#,
        "wrong_type",
        "/severity",
    ),
    (
        "a source with a space",
        r#"{"body":"x","source":"a b"}"#,
        "invalid_source",
        "/source",
    ),
    (
        "an empty source",
        r#"{"body":"x","source":""}"#,
        "invalid_source",
        "/source",
    ),
    (
        "a source that begins with a dot",
        r#"{"body":"x","source":".a"}"#,
        "invalid_source",
        "/source",
    ),
    (
        "a source with an empty segment",
        r#"{"body":"x","source":"a..b"}"#,
        "invalid_source",
        "/source",
    ),
    (
        "a source that is a wildcard",
        r##"{"body":"x","source":"#"}"##,
        "invalid_source",
        "/source",
    ),
    (
        "a source with a wildcard",
        r#"{"body":"x","source":"a.*"}"#,
        "invalid_source",
        "/source",
    ),
    (
        "a source that looks like another",
        r#"{"body":"x","source":"bіlling"}"#,
        "invalid_source",
        "/source",
    ),
    (
        "a source that reads backwards",
        "{\"body\":\"x\",\"source\":\"a\u{202e}b\"}",
        "invalid_source",
        "/source",
    ),
    (
        "a source with a newline",
        r#"{"body":"x","source":"a\nb"}"#,
        "invalid_source",
        "/source",
    ),
    (
        "a source with a NUL",
        r#"{"body":"x","source":"a\u0000"}"#,
        "invalid_source",
        "/source",
    ),
    (
        "a source that is SQL",
        r#"{"body":"x","source":"a'; drop table messages; --"}"#,
        "invalid_source",
        "/source",
    ),
    (
        "an id that is none",
        r#"{"body":"x","id":"7"}"#,
        "invalid_id",
        "/id",
    ),
    (
        "an id of version 4",
        r#"{"body":"x","id":"f47ac10b-58cc-4372-a567-0e02b2c3d479"}"#,
        "invalid_id",
        "/id",
    ),
    (
        "the nil id",
        r#"{"body":"x","id":"00000000-0000-0000-0000-000000000000"}"#,
        "invalid_id",
        "/id",
    ),
    (
        "an id in braces",
        r#"{"body":"x","id":"{019aa0c0-0000-7000-8000-000000000001}"}"#,
        "invalid_id",
        "/id",
    ),
    (
        "an id that is a number",
        r#"{"body":"x","id":7}"#,
        "wrong_type",
        "/id",
    ),
    (
        "an id of the year 10889",
        r#"{"body":"x","id":"ffffffff-ffff-7000-8000-000000000001"}"#,
        "invalid_id",
        "/id",
    ),
    (
        "a time that is a number",
        r#"{"body":"x","occurred_at":1763816400}"#,
        "wrong_type",
        "/occurred_at",
    ),
    (
        "a time without a zone",
        r#"{"body":"x","occurred_at":"2026-11-22T13:00:00"}"#,
        "invalid_timestamp",
        "/occurred_at",
    ),
    (
        "a date",
        r#"{"body":"x","occurred_at":"2026-11-22"}"#,
        "invalid_timestamp",
        "/occurred_at",
    ),
    (
        "a leap second",
        r#"{"body":"x","occurred_at":"2026-06-30T23:59:60Z"}"#,
        "invalid_timestamp",
        "/occurred_at",
    ),
    (
        "the 30th of February",
        r#"{"body":"x","occurred_at":"2026-02-30T00:00:00Z"}"#,
        "invalid_timestamp",
        "/occurred_at",
    ),
    (
        "infinity",
        r#"{"body":"x","occurred_at":"infinity"}"#,
        "invalid_timestamp",
        "/occurred_at",
    ),
    (
        "a year of five digits",
        r#"{"body":"x","occurred_at":"+12026-11-22T00:00:00Z"}"#,
        "invalid_timestamp",
        "/occurred_at",
    ),
    (
        "a time before 1970",
        r#"{"body":"x","occurred_at":"1969-12-31T23:59:59Z"}"#,
        "timestamp_out_of_range",
        "/occurred_at",
    ),
    (
        "a time after 2261",
        r#"{"body":"x","occurred_at":"2262-01-01T00:00:00Z"}"#,
        "timestamp_out_of_range",
        "/occurred_at",
    ),
    (
        "attributes that are an array",
        r#"{"body":"x","attributes":[]}"#,
        "wrong_type",
        "/attributes",
    ),
    (
        "attributes that are a string",
        r#"{"body":"x","attributes":"a=1"}"#,
        "wrong_type",
        "/attributes",
    ),
];

/// Messages that are valid, and hard to keep.
fn valid() -> Vec<(&'static str, String)> {
    vec![
        ("an empty body", r#"{"body":""}"#.to_owned()),
        ("every field null but the body", r#"{"body":"x","id":null,"severity":null,"source":null,"attributes":null,"occurred_at":null}"#.to_owned()),
        ("NUL in body, key and value", r#"{"body":"a\u0000b","attributes":{"k\u0000":"v\u0000"}}"#.to_owned()),
        ("every control character", (1..32).fold(r#"{"body":""#.to_owned(), |text, code| text + &format!("\\u{code:04x}")) + "\"}"),
        ("scripts, emoji, directions", "{\"body\":\"日本語 العربية עברית 👩‍👩‍👧‍👦 \u{202e}gnirts\u{202c} e\u{301} \u{feff}\u{ffff}\"}".to_owned()),
        ("the largest and smallest numbers", r#"{"body":"x","attributes":{"a":1.7976931348623157e308,"b":5e-324,"c":-0.0,"d":18446744073709551615,"e":-9223372036854775808,"f":123456789012345678901234567890}}"#.to_owned()),
        ("keys of SQL, dots, quotes and nothing", r#"{"body":"'; drop table messages; --","attributes":{"":1,"a.b":2,"'":3,"\"":4,"$1":5,"__proto__":6}}"#.to_owned()),
        ("attributes of 32 levels", String::from_utf8_lossy(&nested(32)).into_owned()),
        ("a body of exactly 256 KiB", format!(r#"{{"body":"{}"}}"#, "x".repeat(256 << 10))),
        ("a source of exactly 200 bytes", format!(r#"{{"body":"x","source":"{}"}}"#, "s".repeat(200))),
        ("the first moment", r#"{"body":"x","occurred_at":"1970-01-01T00:00:00Z"}"#.to_owned()),
        ("the last moment", r#"{"body":"x","occurred_at":"2261-12-31T23:59:59.999999999Z"}"#.to_owned()),
        ("a severity by an alias in odd case", r#"{"body":"x","severity":"EmErG"}"#.to_owned()),
        ("a mebibyte of white space", format!("{{{} \"body\":\"x\"}}", " ".repeat(1 << 20))),
    ]
}
