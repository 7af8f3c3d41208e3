//! A settings struct as a list of keys and values.

use serde::Serialize;
use serde_json::Value;

/// Lists every setting of `settings`, sorted by key, with its value as text.
///
/// Keys are dotted (`http.listen`), lists are joined by commas as the environment takes them, sizes lose a useless
/// fraction (`256KiB`), and what is not set is the empty text. Values are **not** masked: give it defaults, or mask.
///
/// # Errors
/// When a struct cannot be serialized, which for plain settings is a mistake in the program.
pub fn flatten<T: Serialize>(settings: &T) -> Result<Vec<(String, String)>, serde_json::Error> {
    let mut list = Vec::new();
    walk(String::new(), &serde_json::to_value(settings)?, &mut list);
    Ok(list)
}

fn walk(key: String, value: &Value, list: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                walk(key, value, list);
            }
        }
        _ => list.push((key, text(value))),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Object(fields) if fields.is_empty() => String::new(),
        Value::String(text) => size(text).unwrap_or_else(|| text.clone()),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// `256.0 KiB` is how the size type prints itself; `256KiB` is how people write it.
fn size(text: &str) -> Option<String> {
    let (number, unit) = text.split_once(' ')?;
    let number = number.strip_suffix(".0").unwrap_or(number);
    let whole = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (whole && matches!(unit, "B" | "KiB" | "MiB" | "GiB" | "TiB")).then(|| format!("{number}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_has_a_dotted_key_and_a_plain_value() {
        let value = serde_json::json!({
            "http": {"listen": "127.0.0.1:8080", "limit": "20.0 MiB", "note": "1.5 MiB", "ca": null},
            "tags": ["a", "b"], "retention_days": 30, "labels": {}
        });
        let list = flatten(&value).unwrap();
        let list: Vec<_> = list
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            list,
            [
                ("http.ca", ""),
                ("http.limit", "20MiB"),
                ("http.listen", "127.0.0.1:8080"),
                ("http.note", "1.5 MiB"),
                ("labels", ""),
                ("retention_days", "30"),
                ("tags", "a,b"),
            ]
        );
    }
}
