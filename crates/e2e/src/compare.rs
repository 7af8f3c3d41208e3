//! Equality of JSON values by what they mean.

use serde_json::{Number, Value};

/// Tells whether two JSON values mean the same.
///
/// JSON knows one kind of number: `1e15`, `1000000000000000` and `1000000000000000.0` are equal, and databases write
/// them as they please. Integers are compared digit by digit all the same, never through a float.
pub fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => same_number(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same_value(a, b)))
        }
        (a, b) => a == b,
    }
}

fn integer(number: &Number) -> Option<i128> {
    number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from))
}

fn same_number(a: &Number, b: &Number) -> bool {
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a.as_f64() == b.as_f64(),
        (Some(integer), None) => same_mixed(integer, b),
        (None, Some(integer)) => same_mixed(integer, a),
    }
}

/// A float equals an integer when it has no fraction and every digit agrees.
fn same_mixed(integer: i128, real: &Number) -> bool {
    real.as_f64()
        .is_some_and(|real| real.fract() == 0.0 && real.abs() < 1e38 && real as i128 == integer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn same(a: &str, b: &str) -> bool {
        same_value(
            &serde_json::from_str(a).unwrap(),
            &serde_json::from_str(b).unwrap(),
        )
    }

    #[test]
    fn numbers_are_equal_by_value() {
        for (a, b) in [
            ("1", "1.0"),
            ("1e15", "1000000000000000"),
            ("-0.0", "0"),
            ("1e22", "10000000000000000000000"),
            ("18446744073709551615", "18446744073709551615"),
            ("{\"a\":[1e2]}", "{\"a\":[100]}"),
        ] {
            assert!(same(a, b) && same(b, a), "{a} and {b}");
        }
        for (a, b) in [
            ("9007199254740993", "9007199254740992"),
            ("9007199254740993", "9007199254740992.0"),
            ("18446744073709551615", "18446744073709551616"),
            ("0.1", "0.10000000000000002"),
            ("1", "\"1\""),
        ] {
            assert!(!same(a, b) && !same(b, a), "{a} and {b}");
        }
    }

    #[test]
    fn objects_need_the_same_keys() {
        assert!(same_value(
            &json!({"a": 1, "b": null}),
            &json!({"b": null, "a": 1})
        ));
        assert!(!same_value(&json!({"a": 1, "b": null}), &json!({"a": 1})));
        assert!(!same_value(&json!([1, 2]), &json!([2, 1])));
    }
}
