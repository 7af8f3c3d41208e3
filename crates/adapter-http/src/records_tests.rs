use axum::http::HeaderValue;

use super::*;

fn form(content_type: &'static str) -> Option<Form> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Form::of(&headers).ok()
}

/// Returns the body of each record, or the code of its fault.
fn records(form: Form, body: impl AsRef<[u8]>) -> Result<Vec<String>, Kind> {
    let records = Records::split(form, Bytes::copy_from_slice(body.as_ref()), &Query::default(), 5);
    let told = |draft: Result<Draft, Rejection>| match draft {
        Ok(draft) => draft.body.unwrap_or_default(),
        Err(rejection) => format!("{} {}", rejection.code, rejection.pointer),
    };
    records
        .map(|records| records.into_drafts().map(told).collect())
        .map_err(|problem| problem.kind())
}

fn taken(form: Form, body: impl AsRef<[u8]>) -> Vec<String> {
    records(form, body).unwrap()
}

#[test]
fn content_types_name_the_form() {
    for (content_type, expected) in [
        ("application/json", Some(Form::Json)),
        ("Application/JSON; charset=UTF-8", Some(Form::Json)),
        ("application/cloudevents+json;charset=\"utf-8\"", Some(Form::Json)),
        ("application/x-www-form-urlencoded", Some(Form::Json)),
        ("application/octet-stream", Some(Form::Json)),
        ("", Some(Form::Json)),
        ("application/x-ndjson", Some(Form::Lines)),
        ("application/jsonl", Some(Form::Lines)),
        (
            "application/vnd.elasticsearch+x-ndjson; compatible-with=9",
            Some(Form::Lines),
        ),
        ("text/plain;charset=us-ascii", Some(Form::Text)),
        ("text/plain; charset=utf-16", None),
        ("application/json; charset=latin1", None),
        ("application/xml", None),
        ("multipart/form-data; boundary=x", None),
        ("text/html", None),
        ("image/png", None),
    ] {
        assert_eq!(form(content_type), expected, "{content_type}");
    }
}

#[test]
fn the_forms_are_told_apart_by_looking_at_the_body() {
    assert_eq!(taken(Form::Json, r#"{"body":"a"}"#), ["a"]);
    assert_eq!(taken(Form::Json, "\u{feff} \r\n{\n \"body\": \"a\"\n}\n"), ["a"]);
    assert_eq!(taken(Form::Json, r#"[{"body":"a"},{"body":"b"}]"#), ["a", "b"]);
    assert_eq!(
        taken(Form::Json, "{\"body\":\"a\"}\r\n\r\n  \n{\"body\":\"b\"}"),
        ["a", "b"]
    );
    assert_eq!(
        taken(Form::Lines, "\n{\"body\":\"a\"}\n\n\n{\"body\":\"b\"}\n"),
        ["a", "b"]
    );
    assert_eq!(taken(Form::Text, "{\"body\":\"a\"}\n"), ["{\"body\":\"a\"}\n"]);
}

#[test]
fn one_bad_record_never_spoils_its_neighbours() {
    let bad: [&[u8]; 6] = [
        br#"{"body":"\ud800"}"#,
        b"{\"body\":\"\xff\"}",
        br#"{"body":NaN}"#,
        br#"{"body":1e999}"#,
        b"7",
        b"nul",
    ];
    for record in bad {
        let array = [b"[{\"body\":\"a\"},", record, b",{\"body\":\"b\"}]"].concat();
        let lines = [b"{\"body\":\"a\"}\n", record, b"\n{\"body\":\"b\"}"].concat();
        for told in [
            taken(Form::Json, &array),
            taken(Form::Lines, &lines),
            taken(Form::Json, &lines),
        ] {
            assert_eq!(
                (told.len(), told[0].as_str(), told[2].as_str()),
                (3, "a", "b"),
                "{record:?}"
            );
            assert!(
                told[1].contains("_json ") || told[1].contains("not_an_object"),
                "{told:?}"
            );
        }
    }
}

#[test]
fn a_bad_first_line_never_spoils_those_behind_it() {
    for first in [
        r#"{"body":"a}"#,
        r#"{"body":"a"#,
        r#"{"body":"a""#,
        r#"{"body":]}"#,
        r#"{"body":"a"}}"#,
    ] {
        let lines = format!("{first}\n\n{{\"body\":\"b\"}}\r\n{{\"body\":\"c\"}}\n");
        let told = taken(Form::Json, &lines);
        assert!(told[0].starts_with("invalid_json "), "{told:?}");
        assert_eq!(told[1..], ["b", "c"], "{first}");
    }
    // An object over several lines that is cut off is no line of NDJSON, whatever stands in it.
    for cut in [
        "{\"attributes\":\n{\"body\":\"b\"}\n",
        "{\n\"attributes\":{\"list\":[\n{\"body\":\"a\"},\n{\"body\":\"b\"}\n",
    ] {
        assert_eq!(records(Form::Json, cut), Err(Kind::MalformedBody), "{cut:?}");
    }
}

#[test]
fn json_that_is_no_object_is_a_record_that_says_so() {
    for body in ["42", "null", "true", "\"text\"", " -1.5e3 "] {
        assert_eq!(taken(Form::Json, body), ["not_an_object "], "{body}");
    }
}

#[test]
fn nothing_to_take_is_an_empty_request() {
    for body in ["", " ", "\n\r\n\t", "\u{feff}", "\u{feff}\n", "[]", " [ \n ] "] {
        assert_eq!(records(Form::Json, body), Err(Kind::EmptyRequest), "{body:?}");
    }
    assert_eq!(records(Form::Lines, "\n\n"), Err(Kind::EmptyRequest));
    assert_eq!(records(Form::Text, ""), Err(Kind::EmptyRequest));
}

#[test]
fn what_is_no_json_at_all_is_malformed() {
    for body in [
        "hello",
        "<a/>",
        "body=a&source=b",
        "[{\"body\":\"a\"}",
        "{\"body\":\"a\"",
        "{\"body\":\"a}",
        "[{]}",
        "[1] x",
        "[1][2]",
        "}",
        "]",
        "\u{1f}\u{8b}",
        "{\"a\":]}",
    ] {
        assert_eq!(records(Form::Json, body), Err(Kind::MalformedBody), "{body:?}");
    }
}

#[test]
fn too_many_records_are_refused_before_they_are_read() {
    let many = |count: usize| vec!["{\"body\":\"\"}"; count];
    assert!(records(Form::Json, format!("[{}]", many(5).join(","))).is_ok());
    assert_eq!(
        records(Form::Json, format!("[{}]", many(6).join(","))),
        Err(Kind::TooLarge)
    );
    assert!(records(Form::Lines, many(5).join("\n")).is_ok());
    assert_eq!(records(Form::Lines, many(6).join("\n")), Err(Kind::TooLarge));
    assert_eq!(records(Form::Json, many(600).join("\n")), Err(Kind::TooLarge));
}

#[test]
fn plain_text_takes_its_fields_from_the_query() {
    let query = Query::parse(Some("severity=warn&source=shop")).unwrap();
    let records = Records::split(Form::Text, Bytes::from_static("grüß\n".as_bytes()), &query, 5).unwrap();
    let draft = records.into_drafts().next().unwrap().unwrap();
    assert_eq!(draft.body.as_deref(), Some("grüß\n"));
    assert_eq!(draft.severity, Some(warren_domain::Severity::Warning));
    assert_eq!(draft.source.unwrap().as_str(), "shop");

    let query = Query::parse(Some("severity=loud")).unwrap();
    let records = Records::split(Form::Text, Bytes::from_static(b"x"), &query, 5).unwrap();
    assert_eq!(
        records.into_drafts().next().unwrap().unwrap_err().pointer,
        "/severity"
    );
    let records = Records::split(Form::Text, Bytes::from_static(b"x\xff"), &Query::default(), 5).unwrap();
    assert_eq!(
        records.into_drafts().next().unwrap().unwrap_err().pointer,
        "/body"
    );
}

#[test]
fn many_small_values_are_charged_for_their_memory() {
    let small = format!(
        r#"{{"body":"a","attributes":{{"a":[{}]}}}}"#,
        vec!["{}"; 10_000].join(",")
    );
    let records = Records::split(Form::Json, small.clone().into(), &Query::default(), 5).unwrap();
    assert!(records.charge() > 50 * small.len());
    let prose = format!(r#"{{"body":"{}"}}"#, "a, b, [c], {d}; ".repeat(10_000));
    let length = prose.len();
    let records = Records::split(Form::Json, prose.into(), &Query::default(), 5).unwrap();
    assert_eq!(records.charge(), length);
}

#[test]
fn many_short_records_are_charged_for_their_memory() {
    const MANY: usize = 10_000;
    let body = vec![r#"{"body":""}"#; MANY].join("\n");
    for (form, body) in [
        (Form::Lines, body.clone()),
        (Form::Json, format!("[{}]", body.replace('\n', ","))),
    ] {
        let length = body.len();
        let records = Records::split(form, body.into(), &Query::default(), MANY).unwrap();
        assert!(4 * records.charge() > 3 * length + (MANY - 8) * 512 - 4);
    }
    // A request of a few records costs no second look at the budget.
    let few = [r#"{"body":""}"#; 8].join("\n");
    let length = few.len();
    let records = Records::split(Form::Lines, few.into(), &Query::default(), MANY).unwrap();
    assert_eq!(records.charge(), length);
}
