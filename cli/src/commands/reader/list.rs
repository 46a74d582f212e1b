//! `reader list`.

use std::collections::{BTreeMap, BTreeSet};

use registry::{AdapterRecord, Filter, Role};
use serde_json::json;

use super::kind;
use crate::context::Context;
use crate::error::Result;
use crate::output::{count, print, print_json, table};

/// What a line tells of a reader.
struct Line<'a> {
    record: &'a AdapterRecord,
    /// Its alias, else its name.
    name: &'a str,
    trained_on: usize,
    smoke: bool,
}

pub(super) fn run(context: &Context<'_>) -> Result {
    let store = context.existing_store()?;
    let readers = store.adapters(&Filter::all().and("role != weight_diff")?)?;
    let aliases: BTreeMap<String, String> =
        store.aliases()?.into_iter().map(|a| (a.adapter, a.name)).collect();
    let ids: BTreeSet<&str> = readers.iter().map(|r| r.id.as_str()).collect();
    let mut lines: Vec<Line<'_>> = readers
        .iter()
        .map(|record| Line {
            record,
            name: aliases.get(&record.id).unwrap_or(&record.behaviour),
            // An oracle that goes on from another names it among its parents.
            trained_on: record.parents.iter().filter(|p| !ids.contains(p.as_str())).count(),
            smoke: record.tags.contains_key(readers::reader::SMOKE),
        })
        .collect();
    lines.sort_by(|a, b| b.record.created_at.cmp(&a.record.created_at).then(a.record.id.cmp(&b.record.id)));
    if context.global.json {
        let item = |l: &Line<'_>| {
            json!({"id": l.record.id, "name": l.name, "kind": if l.record.role == Role::Oracle { "oracle" } else { "dit" },
                "method": l.record.family, "base": l.record.peft.base_model, "base_digest": l.record.lineage.get("base"),
                "rank": l.record.peft.r, "trained_on": l.trained_on, "validation_top1": l.record.metrics.get("validation_top1"),
                "created": l.record.created_at, "smoke": l.smoke})
        };
        return print_json(
            &json!({"schema": "reader-list/1", "readers": lines.iter().map(item).collect::<Vec<_>>()}),
        );
    }
    // Readers of one base model are the rule: then it is said once.
    let bases: BTreeSet<&str> =
        readers.iter().filter_map(|r| r.lineage.get("base")).map(String::as_str).collect();
    let row = |l: &Line<'_>| {
        let r = l.record;
        let trained =
            if r.family.ends_with("-imported") { "–".to_owned() } else { l.trained_on.to_string() };
        let top1 = r.metrics.get("validation_top1").map_or("–".into(), |v| format!("{v:.2}"));
        let created = r.created_at.get(..10).unwrap_or_default().to_owned();
        let created = if l.smoke { created + " (smoke)" } else { created };
        let mut row = vec![l.name.to_owned(), kind(r).to_owned(), trained, top1, created];
        row.extend((bases.len() > 1).then(|| base(&r.peft.base_model)));
        row
    };
    if !lines.is_empty() {
        let mut head = vec!["reader", "kind", ">trained on", ">top-1", "created"];
        head.extend((bases.len() > 1).then_some("base"));
        print(&table(&head, &lines.iter().map(row).collect::<Vec<_>>()))?;
    }
    let of = match (bases.len(), readers.first()) {
        (1, Some(one)) => format!(" of {}", fence::shown(&one.peft.base_model)),
        _ => String::new(),
    };
    context.say(&format!("{}{of}", count(lines.len(), "reader")));
    if lines.is_empty() {
        context.say("train one with: lorafab dit train, or take one in with: lorafab reader add FOLDER");
    }
    Ok(())
}

/// A base model at a length for a table: its last part.
fn base(name: &str) -> String {
    let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    last.chars().take(24).collect()
}
