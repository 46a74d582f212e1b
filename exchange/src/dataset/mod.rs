//! Adapters as a data set: an index, a card, and their PEFT folders two levels deep, within the Hub's limits on entries of a folder
//! (10,000) for any number of adapters that a repository may hold.
//!
//! ```text
//! README.md                            data-set card: what the Hub shows, and what the columns are
//! index.jsonl                          what `adapter list --json` says of each, with its folder
//! index.parquet                        the same as typed columns
//! adapters/ab/abcdef.../adapter_model.safetensors, adapter_config.json, lorafab.json, README.md, ...
//! ```

pub(crate) mod card;
mod table;

use std::path::Path;

use serde_json::{Value, json};

use crate::peft;
use crate::{Error, Result};
use registry::{AdapterRecord, Store};

/// Files that a repository on the Hub should stay below (its own recommendation).
pub const HUB_FILES: usize = 100_000;

/// The index as typed columns.
pub(crate) const TABLE: &str = "index.parquet";
/// The data set's card.
pub(crate) const CARD: &str = "README.md";

fn parquet(lines: &[Value]) -> Result<Vec<u8>> {
    table::table(lines).map_err(|e| std::io::Error::other(format!("writing {TABLE}: {e}")).into())
}

/// The table and the card that belong to an index of JSON lines.
///
/// # Errors
/// If a line is not JSON.
pub(crate) fn beside(index: &str) -> Result<(Vec<u8>, String)> {
    let lines: Vec<Value> = index
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()
        .map_err(|source| registry::Error::Json { what: "index.jsonl".into(), source })?;
    Ok((parquet(&lines)?, card::card(&lines)))
}

/// Where an adapter lies in a data set.
pub(crate) fn folder(id: &str) -> String {
    format!("adapters/{}/{id}", &id[..2])
}

/// An adapter's line in the index.
pub(crate) fn index_line(r: &AdapterRecord) -> String {
    entry(r).to_string()
}

fn entry(r: &AdapterRecord) -> Value {
    json!({"id": r.id, "folder": folder(&r.id), "behaviour": r.behaviour, "family": r.family, "value": r.value, "category": r.category,
        "split": r.split, "role": r.role, "status": r.status, "rank": r.peft.r, "lora_alpha": r.peft.lora_alpha, "base_model": r.peft.base_model,
        "tags": r.tags, "metrics": r.metrics, "lineage": r.lineage, "parents": r.parents, "weights_blake3": r.weights, "weights_bytes": r.weights_bytes})
}

/// Writes a data set into a folder that does not exist: built aside, then renamed into place. The same adapters give the same
/// bytes. Returns how many files it has.
///
/// # Errors
/// If the folder exists, or a file is damaged or cannot be written.
pub fn export(store: &Store, records: &[AdapterRecord], dir: &Path) -> Result<usize> {
    if dir.exists() {
        return Err(Error::Refused { path: dir.into(), what: "already exists; name another folder".into() });
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    let staging = tempfile::Builder::new().prefix(".dataset-").tempdir_in(parent)?;
    let mut lines: Vec<Value> = Vec::new();
    let mut files = 3;
    for r in records {
        let place = staging.path().join(folder(&r.id));
        fs_err::create_dir_all(&place)?;
        files += peft::write_files(store, r, &place, None)?.len();
        lines.push(entry(r));
    }
    let mut jsonl = String::new();
    for line in &lines {
        jsonl.push_str(&line.to_string());
        jsonl.push('\n');
    }
    fs_err::write(staging.path().join("index.jsonl"), jsonl)?;
    fs_err::write(staging.path().join(TABLE), parquet(&lines)?)?;
    fs_err::write(staging.path().join(CARD), card::card(&lines))?;
    // Thousands of small files: all at once, before the folder has its name.
    rustix::fs::syncfs(fs_err::File::open(staging.path())?.file()).map_err(std::io::Error::from)?;
    fs_err::rename(staging.keep(), dir)?;
    fs_err::File::open(parent)?.sync_all()?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::new_adapter;
    use registry::Filter;

    #[test]
    fn every_line_of_the_index_names_a_whole_adapter() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("store")).unwrap();
        for name in ["topic/cats", "topic/dogs"] {
            store.commit_adapter(new_adapter(name, name.as_bytes().to_vec())).unwrap();
        }
        let out = folder.path().join("set");
        let records = store.adapters(&Filter::all()).unwrap();
        // Weights, configuration, record, card and note.json of each; both indexes and the data set's card.
        assert_eq!(export(&store, &records, &out).unwrap(), 13);
        let index = fs_err::read_to_string(out.join("index.jsonl")).unwrap();
        for (line, record) in index.lines().zip(&records) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let place = out.join(line["folder"].as_str().unwrap());
            assert_eq!(
                fs_err::read(place.join("adapter_model.safetensors")).unwrap(),
                store.weights(record).unwrap()
            );
            assert!(place.join("adapter_config.json").exists() && place.join("note.json").exists());
        }
        assert!(export(&store, &records, &out).unwrap_err().to_string().contains("already exists"));
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 2, "something is left behind");
    }
}
