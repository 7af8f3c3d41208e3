//! The attributes of `-a key=value`.

use serde_json::{Map, Value};

/// One attribute as it is given on the command line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attribute {
    key: String,
    value: Value,
}

impl Attribute {
    /// Reads `key=value`: the value is JSON where it is some, else text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: read(value),
            }),
            _ => Err("expected KEY=VALUE, such as order=42 or user=ada".to_owned()),
        }
    }
}

/// Returns the value as JSON, or as text where it is none, or where JSON would lose some of its digits.
fn read(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Number(number)) if number.is_f64() && text.bytes().all(is_of_integer) => text.into(),
        Ok(value) => value,
        Err(_) => text.into(),
    }
}

fn is_of_integer(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'-'
}

/// Gathers the attributes into one object.
///
/// # Errors
/// The key that is given twice.
pub(crate) fn gather(attributes: Vec<Attribute>) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    for Attribute { key, value } in attributes {
        if map.contains_key(&key) {
            return Err(key);
        }
        map.insert(key, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_json_where_it_is_some_and_else_text() {
        for (text, value) in [
            ("42", json!(42)),
            ("-1.5e3", json!(-1500.0)),
            ("true", json!(true)),
            ("null", json!(null)),
            (r#"{"a":[1]}"#, json!({"a": [1]})),
            (r#""42""#, json!("42")),
            ("card", json!("card")),
            ("007", json!("007")),
            ("{half", json!("{half")),
            ("", json!("")),
            ("a=b", json!("a=b")),
            ("1e999", json!("1e999")),
            ("18446744073709551615", json!(u64::MAX)),
            (
                "123456789012345678901234567890",
                json!("123456789012345678901234567890"),
            ),
        ] {
            let attribute = Attribute::parse(&format!("key={text}")).unwrap();
            assert_eq!(
                (attribute.key.as_str(), attribute.value),
                ("key", value),
                "{text}"
            );
        }
    }

    #[test]
    fn a_key_is_needed_and_given_once() {
        for text in ["", "order", "=42"] {
            assert!(
                Attribute::parse(text).unwrap_err().contains("KEY=VALUE"),
                "{text:?}"
            );
        }
        let twice = ["a=1", "b=2", "a=3"].map(|text| Attribute::parse(text).unwrap());
        assert_eq!(gather(twice.to_vec()), Err("a".to_owned()));
        let once = ["a=1", "b=x"].map(|text| Attribute::parse(text).unwrap());
        assert_eq!(
            Value::Object(gather(once.to_vec()).unwrap()),
            json!({"a": 1, "b": "x"})
        );
    }
}
