//! `adapter list`.

use registry::{AdapterRecord, Filter, Listing, Store};
use serde_json::json;

use crate::args::ListArgs;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, table};

pub(super) fn run(context: &Context<'_>, args: &ListArgs) -> Result {
    let mut filter = Filter::all();
    let quick =
        [("family", &args.family), ("status", &args.status), ("role", &args.role), ("split", &args.split)];
    for (key, value) in quick {
        if let Some(value) = value {
            filter = filter.equals(key, value);
        }
    }
    for condition in &args.conditions {
        filter = filter.and(condition)?;
    }
    let sort: Vec<(String, bool)> = args
        .sort
        .iter()
        .map(|s| s.strip_prefix('-').map_or((s.clone(), false), |key| (key.to_owned(), true)))
        .collect();
    let store = context.existing_store()?;
    let asked = sort.iter().map(|(key, _)| key).chain(&args.columns).map(String::as_str);
    check_keys(&store, &filter, asked, args.family.as_deref())?;
    let found = store.list(&filter, &Listing { sort, limit: args.limit })?;
    if context.global.json {
        return print_json(
            &json!({"schema": "adapter-list/1", "adapters": found.iter().map(item).collect::<Vec<_>>()}),
        );
    }
    if args.columns.is_empty() {
        print(&standard(&found))?;
    } else {
        let heads: Vec<&str> = args.columns.iter().map(String::as_str).collect();
        let cell = |r: &AdapterRecord, key: &str| r.field(key).map_or("–".into(), |v| v.replace('\n', " "));
        let rows: Vec<Vec<String>> =
            found.iter().map(|r| heads.iter().map(|key| cell(r, key)).collect()).collect();
        print(&table(&heads, &rows))?;
    }
    context.say(&count(found.len(), "adapter"));
    Ok(())
}

/// What an empty or odd answer may come from: a family or key that no adapter of the store has, numbers compared with a word.
pub(super) fn check_keys<'a>(
    store: &Store,
    filter: &'a Filter,
    asked: impl Iterator<Item = &'a str>,
    family: Option<&str>,
) -> Result {
    let known = store.field_names()?;
    if known.is_empty() {
        return Ok(());
    }
    if let Some(family) = family {
        let families = store.field_values("family", 50)?;
        if !families.iter().any(|f| f == family) {
            return Err(CommandError::new(Kind::NotFound, format!("no adapter is of family {family:?}"))
                .hint(format!("families here: {}", families.join(", "))));
        }
    }
    let mut keys = filter.keys().into_iter().chain(asked);
    if let Some(key) = keys.find(|k| !known.contains_key(*k)) {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        return Err(CommandError::new(Kind::Usage, format!("no adapter has a field {key:?}"))
            .hint(format!("fields: {}", names.join(", "))));
    }
    if let Some((key, value)) =
        filter.ordered_by_text().iter().find(|(key, _)| known.get(*key) == Some(&true))
    {
        return Err(CommandError::new(
            Kind::Usage,
            format!("{key} is a number in every adapter, so it cannot be compared with {value:?}"),
        ));
    }
    Ok(())
}

fn item(r: &AdapterRecord) -> serde_json::Value {
    json!({"id": r.id, "spec_hash": r.spec_hash, "role": r.role, "behaviour": r.behaviour, "family": r.family, "value": r.value, "category": r.category,
           "split": r.split, "status": r.status, "rank": r.peft.r, "tags": r.tags, "metrics": r.metrics, "weights_bytes": r.weights_bytes, "created_at": r.created_at})
}

fn standard(found: &[AdapterRecord]) -> String {
    let rate = |r: &AdapterRecord, key: &str| r.metrics.get(key).map_or("–".into(), |v| format!("{v:.2}"));
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|r| {
            vec![
                registry::commit::short(&r.id).to_owned(),
                r.behaviour.clone(),
                r.split.clone().unwrap_or("–".into()),
                r.field("status").unwrap_or_default(),
                r.peft.r.to_string(),
                rate(r, "gate_on"),
                rate(r, "gate_near"),
                rate(r, "gate_off"),
            ]
        })
        .collect();
    table(&["id", "behaviour", "split", "status", ">rank", ">on", ">near", ">off"], &rows)
}
