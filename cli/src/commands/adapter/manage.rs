//! `adapter lineage|tag|alias|rm|restore`.

use std::collections::BTreeMap;

use registry::query::RUN;
use registry::{AdapterRecord, Edge, Store};
use serde_json::json;

use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, table};

/// An adapter in a sentence.
fn called(r: &AdapterRecord) -> String {
    format!("{} ({})", registry::commit::short(&r.id), fence::shown(&r.behaviour))
}

/// Adapters of one kind that lineage names one by one.
const NAMED: usize = 12;

pub(super) fn lineage(context: &Context<'_>, name: &str) -> Result {
    let store = context.existing_store()?;
    // A digest of a base model or a recipe has children and no row, a run has parents and no row.
    let (id, title) = match store.adapter(name) {
        Ok(record) => (record.id.clone(), called(&record)),
        Err(e) => {
            let run = if name.starts_with(RUN) { name.to_owned() } else { format!("{RUN}{name}") };
            if !store.lineage(name)?.1.is_empty() {
                (name.to_owned(), name.to_owned())
            } else if !store.lineage(&run)?.0.is_empty() {
                (run.clone(), run)
            } else {
                return Err(e.into());
            }
        }
    };
    let (up, down) = store.lineage(&id)?;
    if context.global.json {
        return print_json(
            &json!({"schema": "adapter-lineage/2", "subject": id, "made_from": up, "made_into": down}),
        );
    }
    let mut lines = vec![title];
    let (own, further): (Vec<&Edge>, Vec<&Edge>) = up.iter().partition(|e| e.child == id);
    for (kind, edges) in by_kind(&own) {
        if edges.len() > NAMED {
            lines.push(format!("  from {} ({kind}; --json names them)", count(edges.len(), "adapter")));
        } else {
            lines.extend(edges.iter().map(|e| format!("  from {kind} {}", short(&store, &e.parent))));
        }
    }
    if further.len() > NAMED {
        lines.push(format!("  and {} further up (--json names them)", count(further.len(), "step")));
    } else {
        let step = |e: &&Edge| {
            format!("  from {} {} (of {})", e.kind, short(&store, &e.parent), short(&store, &e.child))
        };
        lines.extend(further.iter().map(step));
    }
    for e in &down {
        lines.push(match (e.child.starts_with(RUN), e.kind.as_str()) {
            (true, "asked") => format!("  asked in {}", e.child),
            (true, _) => format!("  in {}: {} read", e.child, short(&store, &e.parent)),
            (false, kind) => format!("  made into {} (its {kind})", short(&store, &e.child)),
        });
    }
    print(&lines.join("\n"))
}

/// Edges by their kind, in order.
fn by_kind<'a>(edges: &[&'a Edge]) -> BTreeMap<&'a str, Vec<&'a Edge>> {
    let mut out: BTreeMap<&str, Vec<&Edge>> = BTreeMap::new();
    for &edge in edges {
        out.entry(&edge.kind).or_default().push(edge);
    }
    out
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
    let mut store = context.existing_store()?;
    let record = if parsed.is_empty() { store.adapter(adapter)? } else { store.tag(adapter, &parsed)? };
    if context.global.json {
        return print_json(&json!({"schema": "adapter-tag/1", "id": record.id, "tags": record.tags}));
    }
    let tags: Vec<String> =
        record.tags.iter().map(|(k, v)| format!("{k}={}", v.replace('\n', " "))).collect();
    if tags.is_empty() {
        context.say(&format!("{} has no tags", called(&record)));
        return Ok(());
    }
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
