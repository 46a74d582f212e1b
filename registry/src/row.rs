//! An adapter as a row of typed values: what `adapter list --json` prints and what Python sees.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::AdapterRecord;

/// Fields of one adapter by name, as [`crate::Page`] has them.
pub type Row = BTreeMap<String, String>;

/// Columns that are numbers in JSON.
const NUMBERS: [&str; 4] = ["rank", "alpha", "seed", "bytes"];

/// A number as JSON has it: a whole one where it is one.
fn number(text: &str) -> Value {
    match (text.parse::<u64>(), text.parse::<f64>()) {
        (Ok(n), _) => json!(n),
        (_, Ok(x)) => json!(x),
        _ => json!(text),
    }
}

/// A field of an adapter of which all fields are known, typed.
pub fn value(row: &Row, key: &str) -> Value {
    let filed = AdapterRecord::filed_as(key);
    let Some(text) = row.get(filed) else { return Value::Null };
    let column = AdapterRecord::COLUMNS.contains(&filed);
    let tag =
        filed.starts_with(AdapterRecord::TAG) || row.contains_key(&format!("{}{filed}", AdapterRecord::TAG));
    match (column, tag) {
        (true, _) if NUMBERS.contains(&filed) => number(text),
        (true, _) | (_, true) => json!(text),
        // As metrics always are in JSON: with a fraction.
        _ => text.parse::<f64>().map_or_else(|_| json!(text), |x| json!(x)),
    }
}

/// An adapter as JSON: the chosen fields, else all columns under all their names in use, tags and metrics.
pub fn object(row: &Row, chosen: Option<&[&str]>) -> Value {
    if let Some(keys) = chosen {
        return keys.iter().map(|key| ((*key).to_owned(), value(row, key))).collect();
    }
    let mut out: Map<String, Value> =
        AdapterRecord::COLUMNS.iter().map(|key| ((*key).to_owned(), value(row, key))).collect();
    out.insert("created_at".into(), value(row, "created"));
    out.insert("weights_bytes".into(), value(row, "bytes"));
    let tag = |key: &str| key.strip_prefix(AdapterRecord::TAG).map(str::to_owned);
    let tags: Map<String, Value> =
        row.iter().filter_map(|(key, text)| Some((tag(key)?, json!(text)))).collect();
    let metrics: Map<String, Value> = row
        .keys()
        .filter(|k| {
            tag(k).is_none() && !tags.contains_key(*k) && !AdapterRecord::COLUMNS.contains(&k.as_str())
        })
        .map(|k| (k.clone(), value(row, k)))
        .collect();
    out.insert("tags".into(), Value::Object(tags));
    out.insert("metrics".into(), Value::Object(metrics));
    Value::Object(out)
}

/// A field to sort by, as it is written: `-` before it for descending.
pub fn sorted_by(written: &str) -> (String, bool) {
    written.strip_prefix('-').map_or_else(|| (written.to_owned(), false), |key| (key.to_owned(), true))
}
