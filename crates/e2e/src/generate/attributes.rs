//! Attributes with every JSON type, at every depth that is allowed.

use fastrand::Rng;
use serde_json::{Map, Number, Value, json};

/// Keys that some layer might take for its own.
const KEYS: [&str; 16] = [
    "order",
    "user.id",
    "",
    "ключ",
    "鍵",
    "🔑",
    "a b",
    "\"quoted\"",
    "back\\slash",
    "nul\0key",
    "$ref",
    "__proto__",
    "'; --",
    "0",
    "a/b~c",
    "new\nline",
];

/// How many levels attributes may have; the object itself is the first.
const LEVELS: usize = 32;

/// Makes an object of a few keys, now and then as deep as the limit allows or some kilobytes large.
pub(super) fn attributes(rng: &mut Rng) -> Map<String, Value> {
    match rng.u16(..200) {
        0 => deep(rng),
        1 => wide(rng),
        2 => Map::new(),
        _ => object(rng, 3),
    }
}

fn object(rng: &mut Rng, levels: usize) -> Map<String, Value> {
    (0..rng.usize(1..5))
        .map(|_| (key(rng), value(rng, levels - 1)))
        .collect()
}

fn key(rng: &mut Rng) -> String {
    if rng.bool() {
        format!("k{}", rng.u8(..))
    } else {
        KEYS[rng.usize(..KEYS.len())].to_owned()
    }
}

fn value(rng: &mut Rng, levels: usize) -> Value {
    match rng.u8(..10) {
        0 => Value::Null,
        1 => Value::Bool(rng.bool()),
        2..=4 => Value::Number(number(rng)),
        5 if levels > 0 => Value::Object(object(rng, levels)),
        6 if levels > 0 => (0..rng.usize(..4)).map(|_| value(rng, levels - 1)).collect(),
        _ => {
            let size = rng.usize(..40);
            Value::String(super::text::body(rng, size))
        }
    }
}

fn number(rng: &mut Rng) -> Number {
    const REALS: [f64; 14] = [
        0.0,
        -0.0,
        0.1,
        -1.5,
        1e15,
        1e21,
        1e22,
        1e300,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        5e-324,
        2.225_073_858_507_201e-308,
        123_456_789.123_456_79,
    ];
    const INTEGERS: [i64; 6] = [
        0,
        -1,
        i64::MIN,
        i64::MAX,
        9_007_199_254_740_993,
        -9_007_199_254_740_993,
    ];
    match rng.u8(..6) {
        0 => Number::from_f64(REALS[rng.usize(..REALS.len())]).unwrap_or_else(|| 0.into()),
        1 => INTEGERS[rng.usize(..INTEGERS.len())].into(),
        2 => u64::MAX.into(),
        3 => Number::from_f64(f64::from_bits(rng.u64(..))).unwrap_or_else(|| 7.into()),
        4 => rng.i64(..).into(),
        _ => rng.i32(-1_000..1_000).into(),
    }
}

/// Makes an object with exactly as many levels as are allowed.
fn deep(rng: &mut Rng) -> Map<String, Value> {
    let mut inner = json!([number(rng)]);
    for level in 2..LEVELS {
        inner = if level % 2 == 0 {
            json!({ "d": inner })
        } else {
            json!([inner])
        };
    }
    Map::from_iter([("deep".to_owned(), inner)])
}

/// Makes an object of some hundred keys and about 20 KiB.
fn wide(rng: &mut Rng) -> Map<String, Value> {
    (0..300).map(|n| (format!("key{n}"), value(rng, 1))).collect()
}
