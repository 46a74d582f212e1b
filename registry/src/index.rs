//! Rows derived from adapter records: what filters look at, and lineage.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};

use crate::AdapterRecord;
use crate::filter::number;

/// What is filed under each of a record's keys: text, and the number that it is.
fn fields(record: &AdapterRecord) -> BTreeMap<String, (String, Option<f64>)> {
    let filed = |key: String| {
        let text = record.field(&key)?;
        let number = number(&text);
        Some((key, (text, number)))
    };
    record.keys().filter_map(filed).collect()
}

/// A record's lineage: kind and parent.
fn edges(record: &AdapterRecord) -> BTreeSet<(String, String)> {
    let made_from = record.lineage.iter().map(|(kind, parent)| (kind.clone(), parent.clone()));
    made_from.chain(record.parents.iter().map(|p| ("adapter".to_owned(), p.clone()))).collect()
}

/// Files a record's fields and edges, replacing what was filed before.
pub(crate) fn put(c: &Connection, record: &AdapterRecord) -> rusqlite::Result<()> {
    c.prepare_cached("DELETE FROM fields WHERE adapter = ?1")?.execute([&record.id])?;
    c.prepare_cached("DELETE FROM edges WHERE child = ?1")?.execute([&record.id])?;
    let mut field = c.prepare_cached("INSERT INTO fields(adapter, key, text, number) VALUES(?1,?2,?3,?4)")?;
    for (key, (text, number)) in fields(record) {
        field.execute(params![record.id, key, text, number])?;
    }
    let mut edge = c.prepare_cached("INSERT INTO edges(child, kind, parent) VALUES(?1,?2,?3)")?;
    for (kind, parent) in edges(record) {
        edge.execute(params![record.id, kind, parent])?;
    }
    Ok(())
}

/// What is filed for a record otherwise than it is derived, in one sentence; nothing if all is well.
pub(crate) fn wrong(c: &Connection, record: &AdapterRecord) -> rusqlite::Result<Option<String>> {
    let filed: BTreeMap<String, (String, Option<f64>)> = c
        .prepare_cached("SELECT key, text, number FROM fields WHERE adapter = ?1")?
        .query_map([&record.id], |r| Ok((r.get(0)?, (r.get(1)?, r.get(2)?))))?
        .collect::<rusqlite::Result<_>>()?;
    let derived = fields(record);
    if let Some(key) = derived.keys().chain(filed.keys()).find(|k| derived.get(*k) != filed.get(*k)) {
        return Ok(Some(format!("its field {key:?} is not filed as filters need it")));
    }
    let filed: BTreeSet<(String, String)> = c
        .prepare_cached("SELECT kind, parent FROM edges WHERE child = ?1")?
        .query_map([&record.id], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let derived = edges(record);
    let first = derived.symmetric_difference(&filed).next();
    Ok(first.map(|(kind, parent)| format!("its lineage is filed otherwise than it is: {kind} {parent}")))
}

/// Fields and edges of no adapter.
pub(crate) fn loose(c: &Connection) -> rusqlite::Result<i64> {
    c.query_row(
        "SELECT COUNT(*) FROM (SELECT adapter FROM fields UNION SELECT child FROM edges) WHERE adapter NOT IN (SELECT id FROM adapters)",
        [],
        |r| r.get(0),
    )
}

/// Files everything again.
pub(crate) fn rebuild(c: &Connection) -> rusqlite::Result<()> {
    c.execute_batch("DELETE FROM fields; DELETE FROM edges;")?;
    records(c)?.iter().try_for_each(|record| put(c, record))
}

/// Files again what is filed otherwise than it is derived; returns of how many adapters.
pub(crate) fn mend(c: &Connection) -> rusqlite::Result<usize> {
    let mut n = loose(c)? as usize;
    for (table, adapter) in [("fields", "adapter"), ("edges", "child")] {
        c.execute(&format!("DELETE FROM {table} WHERE {adapter} NOT IN (SELECT id FROM adapters)"), [])?;
    }
    for record in records(c)? {
        if wrong(c, &record)?.is_some() {
            put(c, &record)?;
            n += 1;
        }
    }
    Ok(n)
}

/// The catalogue's records. One that cannot be read is reported by `check`; it must not keep the store from opening.
fn records(c: &Connection) -> rusqlite::Result<Vec<AdapterRecord>> {
    let rows: Vec<String> =
        c.prepare("SELECT record FROM adapters")?.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
    Ok(rows.iter().filter_map(|json| serde_json::from_str(json).ok()).collect())
}
