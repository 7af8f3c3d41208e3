//! The structured part of a message.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::json::{Pointer, compact_len, without_nul};
use crate::{MessageLimits, Rejection, RejectionCode};

/// The structured part of a message: a JSON object that every store gives back equal.
///
/// No text in it holds U+0000, every number is a finite f64 or a 64-bit integer, and size and depth are bounded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes(Map<String, Value>);

impl Attributes {
    /// Checks `map` against `limits`; replaces U+0000, which PostgreSQL cannot hold, by U+FFFD.
    ///
    /// # Errors
    /// A [`Rejection`] whose pointer begins with `/attributes`: too deep, too large, or two keys that the
    /// replacement of U+0000 makes equal.
    pub fn new(map: Map<String, Value>, limits: &MessageLimits) -> Result<Self, Rejection> {
        let mut seen = Seen::default();
        seen.object(&map, 1);
        let map = if seen.nul || seen.depth > limits.attributes_depth {
            clean_map(map, 1, limits, &mut Pointer::at("/attributes"))?
        } else {
            map
        };
        // Counting exactly means writing it all; most are far below the limit whatever their texts need.
        let bytes = if seen.most_bytes > limits.attributes_bytes {
            compact_len(&map)
        } else {
            seen.most_bytes
        };
        if bytes > limits.attributes_bytes {
            return Err(Pointer::at("/attributes").reject(
                RejectionCode::TooLarge,
                format!(
                    "attributes of {bytes} bytes as JSON, over the limit of {}",
                    limits.attributes_bytes
                ),
                "send less, or put the large part into the body",
            ));
        }
        Ok(Self(map))
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many bytes they have as compact JSON.
    pub fn bytes(&self) -> usize {
        compact_len(&self.0)
    }

    /// Returns the attributes as a JSON object.
    pub const fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Gives the JSON object away.
    pub fn into_map(self) -> Map<String, Value> {
        self.0
    }
}

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// What a look at all values finds, so that only the few that need it are built anew.
#[derive(Default)]
struct Seen {
    /// U+0000 somewhere in a text or key.
    nul: bool,
    /// How many levels there are.
    depth: usize,
    /// As compact JSON it has at most so many bytes.
    most_bytes: usize,
}

impl Seen {
    /// The longest number that serde_json writes, and the sign, comma or colon that goes with any value.
    const SCALAR: usize = 26;

    fn object(&mut self, map: &Map<String, Value>, level: usize) {
        self.enter(level);
        for (key, value) in map {
            self.text(key);
            self.value(value, level);
        }
    }

    fn value(&mut self, value: &Value, level: usize) {
        match value {
            Value::String(text) => self.text(text),
            Value::Object(map) => self.object(map, level + 1),
            Value::Array(items) => {
                self.enter(level + 1);
                for item in items {
                    self.value(item, level + 1);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.most_bytes += Self::SCALAR,
        }
    }

    fn enter(&mut self, level: usize) {
        self.depth = self.depth.max(level);
        // Two brackets, and what separates it from its neighbour.
        self.most_bytes += 3;
    }

    fn text(&mut self, text: &str) {
        // Every byte escaped as \u0000, or U+0000 replaced; two quotes, and what separates it from its neighbour.
        self.most_bytes += 6 * text.len() + 3;
        self.nul |= text.as_bytes().contains(&0);
    }
}

fn clean_map(
    map: Map<String, Value>,
    level: usize,
    limits: &MessageLimits,
    pointer: &mut Pointer,
) -> Result<Map<String, Value>, Rejection> {
    if level > limits.attributes_depth {
        return Err(too_deep(limits, pointer));
    }
    let mut clean = Map::new();
    for (key, value) in map {
        let key = without_nul(key);
        let above = pointer.enter(&key);
        let value = clean_value(value, level, limits, pointer)?;
        if clean.insert(key, value).is_some() {
            return Err(pointer.reject(
                RejectionCode::DuplicateField,
                "two keys are equal once U+0000 is replaced by U+FFFD",
                "rename one of them",
            ));
        }
        pointer.leave(above);
    }
    Ok(clean)
}

fn clean_value(
    value: Value,
    level: usize,
    limits: &MessageLimits,
    pointer: &mut Pointer,
) -> Result<Value, Rejection> {
    Ok(match value {
        Value::String(text) => Value::String(without_nul(text)),
        Value::Object(map) => Value::Object(clean_map(map, level + 1, limits, pointer)?),
        Value::Array(items) => {
            if level + 1 > limits.attributes_depth {
                return Err(too_deep(limits, pointer));
            }
            let mut clean = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                let above = pointer.enter_index(index);
                clean.push(clean_value(item, level + 1, limits, pointer)?);
                pointer.leave(above);
            }
            Value::Array(clean)
        }
        scalar => scalar,
    })
}

fn too_deep(limits: &MessageLimits, pointer: &Pointer) -> Rejection {
    pointer.reject(
        RejectionCode::TooDeep,
        format!("nested deeper than {} levels", limits.attributes_depth),
        "flatten it, or put it into the body as text",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn attributes(value: Value, limits: &MessageLimits) -> Result<Attributes, Rejection> {
        match value {
            Value::Object(map) => Attributes::new(map, limits),
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn nul_is_replaced_in_keys_and_texts_at_any_depth() {
        let clean = attributes(json!({"a\0": [{"b": "c\0d"}]}), &MessageLimits::default()).unwrap();
        assert_eq!(
            Value::Object(clean.into_map()),
            json!({"a\u{fffd}": [{"b": "c\u{fffd}d"}]})
        );
    }

    #[test]
    fn keys_that_become_equal_are_refused() {
        let rejection = attributes(json!({"a\0": 1, "a\u{fffd}": 2}), &MessageLimits::default()).unwrap_err();
        assert_eq!(
            (rejection.code, rejection.pointer.as_str()),
            (RejectionCode::DuplicateField, "/attributes/a\u{fffd}")
        );
    }

    #[test]
    fn the_limit_of_levels_counts_objects_and_arrays() {
        let limits = MessageLimits {
            attributes_depth: 3,
            ..MessageLimits::default()
        };
        assert!(attributes(json!({"a": [{"b": 1}]}), &limits).is_ok());
        let rejection = attributes(json!({"a": [{"b": []}]}), &limits).unwrap_err();
        assert_eq!(
            (rejection.code, rejection.pointer.as_str()),
            (RejectionCode::TooDeep, "/attributes/a/0/b")
        );
    }

    #[test]
    fn the_limit_of_bytes_counts_compact_json() {
        let limits = MessageLimits {
            attributes_bytes: 9,
            ..MessageLimits::default()
        };
        assert!(attributes(json!({"a": "b"}), &limits).is_ok());
        assert_eq!(
            attributes(json!({"a": "bc"}), &limits).unwrap_err().code,
            RejectionCode::TooLarge
        );
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text = prop_oneof!["[\\x00-\\x1f\"\\\\a]{0,6}", "\\PC{0,6}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text.clone(), inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_is_longer_than_a_look_at_it_says(value in any_value()) {
            let mut seen = Seen::default();
            seen.value(&value, 0);
            let exact = compact_len(&value);
            prop_assert!(seen.most_bytes >= exact, "{} for {exact}: {value}", seen.most_bytes);
        }
    }
}
