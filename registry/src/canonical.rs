//! Canonical JSON and the digest of a specification.

use serde_json::Value;

/// UTF-8 JSON with keys sorted, no whitespace, and numbers that are not integers as shortest decimal strings, so that
/// float printing can never change a digest.
pub fn canonical_json(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write(item, out);
                }
                out.push(']');
            }
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort();
                out.push('{');
                for (i, key) in keys.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::String(key.clone()).to_string());
                    out.push(':');
                    write(&map[key], out);
                }
                out.push('}');
            }
            Value::Number(n) if n.is_f64() => {
                out.push('"');
                out.push_str(&n.to_string());
                out.push('"');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// `blake3("lorafab-spec-v1" | canonical JSON)` in lower-case hex: the identity of a job.
pub fn spec_hash(spec: &Value) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"lorafab-spec-v1");
    hasher.update(canonical_json(spec).as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// A specification's hash as a name of files: itself, if it is one.
pub fn file_name(spec_hash: &str) -> std::borrow::Cow<'_, str> {
    if spec_hash.len() == 64 && spec_hash.bytes().all(|c| c.is_ascii_hexdigit()) {
        return spec_hash.into();
    }
    blake3::hash(spec_hash.as_bytes()).to_hex().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_layout_do_not_change_the_hash_but_values_do() {
        let a: Value = serde_json::from_str(r#"{"b": [1, 0.5], "a": "x"}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"a":"x","b":[1,5e-1]}"#).unwrap();
        assert_eq!(canonical_json(&a), r#"{"a":"x","b":[1,"0.5"]}"#);
        assert_eq!(spec_hash(&a), spec_hash(&b));
        assert_ne!(spec_hash(&a), spec_hash(&serde_json::json!({"a": "x", "b": [1, 0.25]})));
    }
}
