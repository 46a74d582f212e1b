//! `adapter lineage|tag|alias|rm|restore`.

use registry::{AdapterRecord, Store};
use serde_json::json;

use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, table};

/// An adapter in a sentence.
fn called(r: &AdapterRecord) -> String {
    format!("{} ({})", &r.id[..12], r.behaviour)
}

pub(super) fn lineage(context: &Context<'_>, name: &str) -> Result {
    let store = context.existing_store()?;
    // A digest of a base model or a recipe has children, and no row.
    let (id, title) = match store.adapter(name) {
        Ok(record) => (record.id.clone(), called(&record)),
        Err(e) => {
            if store.lineage(name)?.1.is_empty() {
                return Err(e.into());
            }
            (name.to_owned(), name.to_owned())
        }
    };
    let (up, down) = store.lineage(&id)?;
    if context.global.json {
        return print_json(
            &json!({"schema": "adapter-lineage/1", "subject": id, "made_from": up, "made_into": down}),
        );
    }
    let mut lines = vec![title];
    for e in &up {
        let of = if e.child == id { String::new() } else { format!(" (of {})", short(&store, &e.child)) };
        lines.push(format!("  from {} {}{of}", e.kind, short(&store, &e.parent)));
    }
    for e in &down {
        lines.push(format!("  made into {} (its {})", short(&store, &e.child), e.kind));
    }
    print(&lines.join("\n"))
}

/// An id with its behaviour where the store has it, anything else as it is.
fn short(store: &Store, id: &str) -> String {
    let known = (id.len() == 32).then(|| store.adapter(id).ok()).flatten();
    known.map_or_else(|| id.to_owned(), |r| called(&r))
}

pub(super) fn tag(context: &Context<'_>, adapter: &str, tags: &[String]) -> Result {
    let mut parsed = Vec::new();
    for text in tags {
        let Some((key, value)) = text.split_once('=') else {
            return Err(CommandError::new(Kind::Usage, format!("{text:?} is not key=value"))
                .hint("an empty value removes a tag: note="));
        };
        parsed.push((key, (!value.is_empty()).then_some(value)));
    }
    let record = context.existing_store()?.tag(adapter, &parsed)?;
    if context.global.json {
        return print_json(&json!({"schema": "adapter-tag/1", "id": record.id, "tags": record.tags}));
    }
    let tags: Vec<String> =
        record.tags.iter().map(|(k, v)| format!("{k}={}", v.replace('\n', " "))).collect();
    print(&tags.join("\n"))
}

pub(super) fn alias(
    context: &Context<'_>,
    name: Option<&str>,
    adapter: Option<&str>,
    remove: bool,
) -> Result {
    let mut store = context.existing_store()?;
    match (name, adapter) {
        (Some(name), _) if remove && !store.remove_alias(name)? => {
            return Err(CommandError::new(Kind::NotFound, format!("there is no alias {name:?}"))
                .hint("list them with: lorafab adapter alias"));
        }
        (Some(name), Some(adapter)) => {
            let record = store.set_alias(name, adapter)?;
            context.say(&format!("{name} stands for {}", called(&record)));
        }
        _ => {}
    }
    let mut aliases = store.aliases()?;
    if let (Some(name), None, false) = (name, adapter, remove) {
        aliases.retain(|a| a.name == name);
        if aliases.is_empty() {
            return Err(CommandError::new(Kind::NotFound, format!("there is no alias {name:?}"))
                .hint(format!("make it with: lorafab adapter alias {name} ADAPTER")));
        }
    }
    if context.global.json {
        return print_json(&json!({"schema": "adapter-aliases/1", "aliases": aliases}));
    }
    let rows: Vec<Vec<String>> =
        aliases.iter().map(|a| vec![a.name.clone(), short(&store, &a.adapter)]).collect();
    print(&table(&["alias", "adapter"], &rows))
}

pub(super) fn rm(context: &Context<'_>, adapters: &[String], dry_run: bool) -> Result {
    let mut store = context.existing_store()?;
    // All names are looked up before anything goes.
    let mut records =
        adapters.iter().map(|a| Ok(store.adapter(a)?)).collect::<Result<Vec<AdapterRecord>>>()?;
    records.sort_by(|a, b| a.id.cmp(&b.id));
    records.dedup_by(|a, b| a.id == b.id);
    if !dry_run {
        for record in &records {
            store.remove(&record.id)?;
        }
    }
    if context.global.json {
        let ids: Vec<&str> = records.iter().map(|r| r.id.as_str()).collect();
        return print_json(&json!({"schema": "adapter-rm/1", "ids": ids, "dry_run": dry_run}));
    }
    let verb = if dry_run { "would go to the trash" } else { "in the trash" };
    print(&records.iter().map(|r| format!("{verb}: {}", called(r))).collect::<Vec<_>>().join("\n"))?;
    if !dry_run {
        context.say(&format!(
            "bring back with: lorafab adapter restore ID; {} of weights go with registry gc",
            count(records.len(), "file")
        ));
    }
    Ok(())
}

pub(super) fn restore(context: &Context<'_>, adapter: &str) -> Result {
    let record = context.existing_store()?.restore(adapter)?;
    if context.global.json {
        return print_json(&json!({"schema": "adapter-restore/1", "id": record.id}));
    }
    print(&format!("restored: {}", called(&record)))
}
