//! `adapter list|show|export|import|verify`.

use std::collections::{BTreeMap, BTreeSet};

use lm::{BaseModel, Projection};
use registry::peft::{export, import};
use registry::{AdapterRecord, Filter, IfExists, ImportShape, NewAdapter, Role, Status, Store};
use serde_json::json;

use crate::args::AdapterCommand;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, print_result, table};

pub(crate) fn run(context: &Context<'_>, command: &AdapterCommand) -> Result {
    match command {
        AdapterCommand::List { family, status, role, split, conditions, limit } => {
            let mut filter = Filter::all();
            for (key, value) in [("family", family), ("status", status), ("role", role), ("split", split)] {
                if let Some(value) = value {
                    filter = filter.equals(key, value);
                }
            }
            for condition in conditions {
                filter = filter.and(condition)?;
            }
            let store = context.existing_store()?;
            let mut found = store.adapters(&filter)?;
            if found.is_empty() {
                check_keys(&store, &filter, family.as_deref())?;
            }
            found.truncate(limit.unwrap_or(usize::MAX));
            list(context, &found)
        }
        AdapterCommand::Show { adapter } => {
            let record = context.existing_store()?.adapter(adapter)?;
            if context.global.json {
                return print_json(&json!({"schema": "adapter/1", "adapter": record}));
            }
            show(&record)
        }
        AdapterCommand::Export { adapter, dir, force, .. } => {
            let store = context.existing_store()?;
            let record = store.adapter(adapter)?;
            export(&store, &record, dir, if *force { IfExists::Replace } else { IfExists::Fail })?;
            print_result(context.global.json, "adapter-export/1", "folder", &dir.display().to_string())
        }
        AdapterCommand::Import { dir, name } => {
            let base = context.base()?;
            let imported = import(dir, &import_shape(&base))?;
            let label = name.clone().unwrap_or_else(|| {
                dir.file_name().map_or_else(|| "imported".into(), |n| n.to_string_lossy().into_owned())
            });
            if label.is_empty() || label.len() > 100 || label.chars().any(char::is_control) {
                return Err(CommandError::new(Kind::Usage, format!("{label:?} is not a usable name"))
                    .hint("pass --name"));
            }
            let spec = json!({"schema": "import/1", "name": label, "base": base.digest(), "weights": registry::Digest::of(&imported.weights).as_str()});
            let record = context.store()?.commit_adapter(NewAdapter {
                spec_hash: registry::spec_hash(&spec),
                spec,
                role: Role::WeightDiff,
                behaviour: format!("imported/{label}"),
                family: "imported".into(),
                value: label,
                category: "imported".into(),
                split: None,
                status: Status::Untested,
                tags: BTreeMap::new(),
                metrics: BTreeMap::new(),
                peft: imported.peft,
                weights: imported.weights,
                parents: Vec::new(),
                lineage: BTreeMap::from([("base".to_owned(), base.digest())]),
                extra_files: BTreeMap::new(),
            })?;
            print_result(context.global.json, "adapter-import/1", "id", &record.id)
        }
        AdapterCommand::Verify { adapter } => {
            let store = context.existing_store()?;
            let filter = match adapter {
                Some(id) => Filter::all().equals("id", &store.adapter(id)?.id),
                None => Filter::all(),
            };
            let outcomes = store.verify(&filter)?;
            let bad: Vec<_> = outcomes.iter().filter(|o| o.problem.is_some()).collect();
            if context.global.json {
                print_json(&json!({"schema": "adapter-verify/1", "outcomes": outcomes}))?;
            } else {
                print(&format!("{} checked, {} damaged", count(outcomes.len(), "adapter"), bad.len()))?;
            }
            match bad.first() {
                None => Ok(()),
                Some(first) => Err(CommandError::new(
                    Kind::Negative,
                    format!("{}: {}", first.behaviour, first.problem.as_deref().unwrap_or_default()),
                )),
            }
        }
    }
}

/// An empty answer may be a slip of the pen: names a family or key that no adapter of the store has.
fn check_keys(store: &Store, filter: &Filter, family: Option<&str>) -> Result {
    let all = store.adapters(&Filter::all())?;
    let families: BTreeSet<&str> = all.iter().map(|r| r.family.as_str()).collect();
    let names = |known: BTreeSet<&str>| known.into_iter().collect::<Vec<_>>().join(", ");
    if let Some(family) = family
        && !families.contains(family)
        && !all.is_empty()
    {
        return Err(CommandError::new(Kind::NotFound, format!("no adapter is of family {family:?}"))
            .hint(format!("families here: {}", names(families))));
    }
    let unknown = |key: &&&str| !all.is_empty() && !all.iter().any(|r| r.field(key).is_some());
    if let Some(key) = filter.keys().iter().find(unknown) {
        let tags = all.iter().flat_map(|r| r.tags.keys().chain(r.metrics.keys())).map(String::as_str);
        let known = AdapterRecord::COLUMNS.into_iter().chain(tags).collect();
        return Err(CommandError::new(Kind::Usage, format!("no adapter has a field {key:?}"))
            .hint(format!("fields: {}", names(known))));
    }
    Ok(())
}

/// What an imported adapter must fit.
fn import_shape(base: &BaseModel) -> ImportShape {
    ImportShape {
        base_model: base.name.clone(),
        layers: base.config().num_hidden_layers,
        projections: Projection::ALL
            .iter()
            .map(|p| (p.name().to_owned(), p.features(base.config())))
            .collect(),
    }
}

fn list(context: &Context<'_>, found: &[AdapterRecord]) -> Result {
    if context.global.json {
        let items: Vec<_> = found
            .iter()
            .map(|r| {
                json!({"id": r.id, "spec_hash": r.spec_hash, "role": r.role, "behaviour": r.behaviour, "family": r.family, "value": r.value, "category": r.category,
                       "split": r.split, "status": r.status, "rank": r.peft.r, "tags": r.tags, "metrics": r.metrics, "weights_bytes": r.weights_bytes, "created_at": r.created_at})
            })
            .collect();
        return print_json(&json!({"schema": "adapter-list/1", "adapters": items}));
    }
    let rate = |r: &AdapterRecord, key: &str| r.metrics.get(key).map_or("–".into(), |v| format!("{v:.2}"));
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|r| {
            vec![
                r.id[..12].to_owned(),
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
    print(&table(&["id", "behaviour", "split", "status", ">rank", ">on", ">near", ">off"], &rows))?;
    context.say(&count(found.len(), "adapter"));
    Ok(())
}

fn show(record: &AdapterRecord) -> Result {
    let mut rows: Vec<(String, String)> = AdapterRecord::COLUMNS
        .iter()
        .map(|k| ((*k).to_owned(), record.field(k).unwrap_or("–".into())))
        .collect();
    rows.push(("alpha".into(), record.peft.lora_alpha.to_string()));
    rows.push(("weights".into(), record.weights.to_string()));
    rows.push(("created".into(), record.created_at.clone()));
    rows.extend(record.tags.iter().map(|(k, v)| (format!("tag {k}"), v.replace('\n', " "))));
    rows.extend(record.metrics.iter().map(|(k, v)| (k.clone(), format!("{v:.4}"))));
    rows.extend(record.lineage.iter().map(|(k, v)| (format!("from {k}"), v.clone())));
    rows.extend(record.parents.iter().map(|p| ("parent".to_owned(), p.clone())));
    let width = rows.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
    print(&rows.iter().map(|(k, v)| format!("{k:width$}  {v}")).collect::<Vec<_>>().join("\n"))
}
