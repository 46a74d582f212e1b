//! Rows derived from adapter records: what filters look at, and lineage.

use rusqlite::{Connection, params};

use crate::AdapterRecord;
use crate::filter::number;

/// Files a record's fields and edges, replacing what was filed before.
pub(crate) fn put(c: &Connection, record: &AdapterRecord) -> rusqlite::Result<()> {
    c.prepare_cached("DELETE FROM fields WHERE adapter = ?1")?.execute([&record.id])?;
    c.prepare_cached("DELETE FROM edges WHERE child = ?1")?.execute([&record.id])?;
    let mut field = c.prepare_cached("INSERT INTO fields(adapter, key, text, number) VALUES(?1,?2,?3,?4)")?;
    for key in record.keys() {
        if let Some(text) = record.field(key) {
            field.execute(params![record.id, key, text, number(&text)])?;
        }
    }
    let mut edge = c.prepare_cached("INSERT OR IGNORE INTO edges(child, kind, parent) VALUES(?1,?2,?3)")?;
    for (kind, parent) in &record.lineage {
        edge.execute(params![record.id, kind, parent])?;
    }
    for parent in &record.parents {
        edge.execute(params![record.id, "adapter", parent])?;
    }
    Ok(())
}

/// Files everything again.
pub(crate) fn rebuild(c: &Connection) -> rusqlite::Result<()> {
    c.execute_batch("DELETE FROM fields; DELETE FROM edges;")?;
    let records: Vec<String> =
        c.prepare("SELECT record FROM adapters")?.query_map([], |r| r.get(0))?.collect::<Result<_, _>>()?;
    for json in records {
        // One that cannot be read is reported by `check`; it must not keep the store from opening.
        if let Ok(record) = serde_json::from_str::<AdapterRecord>(&json) {
            put(c, &record)?;
        }
    }
    Ok(())
}
