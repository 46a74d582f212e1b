//! Finding adapters: listings, one by its name, counts, lineage.

use std::collections::BTreeMap;
use std::fmt::Write;

use rusqlite::OptionalExtension;
use rusqlite::types::Value as Sql;
use serde::Serialize;

use crate::commit::{parse, short};
use crate::{AdapterRecord, Digest, Error, Filter, Result, Store};

/// How a listing is ordered and cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Fields to sort by, first one first; `true` is descending. Numbers come before text, adapters without the field last. Then
    /// by behaviour and id.
    pub sort: Vec<(String, bool)>,
    /// At most so many.
    pub limit: Option<usize>,
}

/// Counts over a store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Adapters.
    pub adapters: usize,
    /// By family and status.
    pub by_family: BTreeMap<String, BTreeMap<String, usize>>,
    /// Bytes of all weights files.
    pub weights_bytes: u64,
    /// Blobs on disk.
    pub blobs: usize,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Adapters in the trash.
    pub trashed: usize,
}

/// One step of an adapter's lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// Adapter id, or `run/` and a run's name.
    pub child: String,
    /// What the parent is to it: `base`, `recipe`, `adapter`, ...; to a run: `asked` or `reader`.
    pub kind: String,
    /// An adapter's id, a digest or a version.
    pub parent: String,
}

/// Fields that a listing can be sorted by at once: SQLite joins some sixty tables at most.
const MOST_SORTED: usize = 16;

/// What a run's name begins with in lineage.
pub const RUN: &str = "run/";

impl Store {
    /// Adapters that pass the filter, in the listing's order.
    pub fn list(&self, filter: &Filter, listing: &Listing) -> Result<Vec<AdapterRecord>> {
        let mut parameters = Vec::new();
        let condition = filter.sql(&mut parameters);
        let (mut joins, mut order) = (String::new(), String::new());
        if listing.sort.len() > MOST_SORTED {
            return Err(Error::Sort { n: listing.sort.len(), most: MOST_SORTED });
        }
        for (i, (key, descending)) in listing.sort.iter().enumerate() {
            parameters.push(Sql::Text(key.clone()));
            let (n, direction) = (parameters.len(), if *descending { "DESC" } else { "ASC" });
            let _ = write!(joins, " LEFT JOIN fields s{i} ON s{i}.adapter = a.id AND s{i}.key = ?{n}");
            for column in ["number", "text"] {
                let _ = write!(order, "s{i}.{column} {direction} NULLS LAST, ");
            }
        }
        let limit = listing.limit.map_or(-1, |n| n as i64);
        let sql = format!(
            "SELECT a.record FROM adapters a{joins} WHERE {condition} ORDER BY {order}a.behaviour, a.id LIMIT {limit}"
        );
        let rows: Vec<String> = self.query(|c| {
            c.prepare_cached(&sql)?.query_map(rusqlite::params_from_iter(parameters), |r| r.get(0))?.collect()
        })?;
        rows.iter().map(|json| parse(json)).collect()
    }

    /// Adapters that pass the filter, by behaviour and then id.
    pub fn adapters(&self, filter: &Filter) -> Result<Vec<AdapterRecord>> {
        self.list(filter, &Listing::default())
    }

    /// The fields that adapters of this store have, and whether all their values are numbers.
    pub fn field_names(&self) -> Result<BTreeMap<String, bool>> {
        // A skip scan: one index lookup a key, however many adapters there are.
        let sql = "WITH RECURSIVE k(key) AS (
              SELECT MIN(key) FROM fields UNION ALL SELECT (SELECT MIN(key) FROM fields WHERE key > k.key) FROM k WHERE k.key IS NOT NULL)
            SELECT key, NOT EXISTS (SELECT 1 FROM fields f WHERE f.key = k.key AND f.number IS NULL) FROM k WHERE key IS NOT NULL";
        self.query(|c| c.prepare(sql)?.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect())
    }

    /// The values that a field has, most frequent first, at most `limit`.
    pub fn field_values(&self, key: &str, limit: usize) -> Result<Vec<String>> {
        let sql =
            "SELECT text FROM fields WHERE key = ?1 GROUP BY text ORDER BY COUNT(*) DESC, text LIMIT ?2";
        self.query(|c| {
            c.prepare(sql)?.query_map(rusqlite::params![key, limit as i64], |r| r.get(0))?.collect()
        })
    }

    /// The one adapter whose alias or behaviour is exactly that, or whose id begins so.
    ///
    /// # Errors
    /// If there is none (with a near name) or there are several (with candidates).
    pub fn adapter(&self, id: &str) -> Result<AdapterRecord> {
        let ask = |sql: &str| -> Result<Vec<AdapterRecord>> {
            let rows: Vec<String> =
                self.query(|c| c.prepare_cached(sql)?.query_map([id], |r| r.get(0))?.collect())?;
            rows.iter().map(|json| parse(json)).collect()
        };
        let aliased =
            ask("SELECT a.record FROM aliases l JOIN adapters a ON a.id = l.adapter WHERE l.name = ?1")?;
        if let [one] = &aliased[..] {
            return Ok(one.clone());
        }
        let mut found = ask("SELECT record FROM adapters WHERE behaviour = ?1 ORDER BY id LIMIT 6")?;
        if found.is_empty() && !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit()) {
            found = ask("SELECT record FROM adapters WHERE id >= ?1 AND id < ?1 || 'g' ORDER BY id LIMIT 6")?;
        }
        match &found[..] {
            [one] => Ok(one.clone()),
            [] => Err(Error::NotFound { id: id.into(), suggestion: self.suggestion(id)? }),
            many => {
                let names: Vec<String> =
                    many.iter().take(5).map(|r| format!("{} ({})", short(&r.id), r.behaviour)).collect();
                Err(Error::Ambiguous { id: id.into(), candidates: names.join(", ") })
            }
        }
    }

    /// A behaviour that was perhaps meant.
    fn suggestion(&self, id: &str) -> Result<String> {
        let sql = "SELECT behaviour FROM adapters WHERE ?1 <> '' AND (instr(behaviour, ?1) OR instr(?1, substr(behaviour, instr(behaviour, '/') + 1))) LIMIT 1";
        let near: Option<String> = self.query(|c| c.query_row(sql, [id], |r| r.get(0)).optional())?;
        Ok(near.map_or(String::new(), |b| format!("; did you mean {b:?}?")))
    }

    /// The adapters that have exactly this weights file, oldest first.
    pub fn adapters_of_weights(&self, weights: &crate::Digest) -> Result<Vec<AdapterRecord>> {
        // Searched as text: parsing ten thousand records would take a second.
        let sql = "SELECT record FROM adapters WHERE instr(record, ?1)";
        let text = format!("\"weights\":\"{}\"", weights.as_str());
        let rows: Vec<String> = self.query(|c| c.prepare(sql)?.query_map([text], |r| r.get(0))?.collect())?;
        let mut found: Vec<AdapterRecord> = rows.iter().map(|json| parse(json)).collect::<Result<_>>()?;
        // A specification may name such a digest too.
        found.retain(|r| r.weights == *weights);
        found.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        Ok(found)
    }

    /// An adapter's weights file, checked.
    pub fn weights(&self, record: &AdapterRecord) -> Result<Vec<u8>> {
        self.get_blob(&record.weights)
    }

    /// What an adapter was made from, and what was made from it and the runs that asked it or its readers, as far as this store goes:
    /// `(up, down)`. Of a run (`run/` and its name): what it asked, and what that was made from.
    pub fn lineage(&self, id: &str) -> Result<(Vec<Edge>, Vec<Edge>)> {
        let run = id.strip_prefix(RUN);
        let ask = |sql: &str| {
            self.query(|c| {
                c.prepare(sql)?
                    .query_map(rusqlite::params![id, run], |r| {
                        Ok(Edge { child: r.get(0)?, kind: r.get(1)?, parent: r.get(2)? })
                    })?
                    .collect()
            })
        };
        // UNION drops what was seen, so that a circle ends. Nothing is made from a run.
        let up =
            ask("WITH RECURSIVE up(id) AS (SELECT ?1 UNION SELECT adapter FROM run_edges WHERE run = ?2
                        UNION SELECT e.parent FROM edges e JOIN up ON e.child = up.id)
                      SELECT * FROM (SELECT ?1 AS child, kind, adapter AS parent FROM run_edges WHERE run = ?2
                      UNION ALL SELECT e.child, e.kind, e.parent FROM edges e JOIN up ON e.child = up.id)
                      ORDER BY child <> ?1, child, kind, parent")?;
        let down = ask("WITH RECURSIVE down(id) AS (SELECT ?1 UNION SELECT e.child FROM edges e JOIN down ON e.parent = down.id)
                        SELECT e.child AS child, e.kind AS kind, e.parent AS parent FROM edges e JOIN down ON e.parent = down.id
                        UNION ALL SELECT 'run/' || r.run, r.kind, r.adapter FROM run_edges r JOIN down ON r.adapter = down.id
                          WHERE ?2 IS NULL
                        ORDER BY child, kind, parent")?;
        Ok((up, down))
    }

    /// Counts.
    pub fn stats(&self) -> Result<Stats> {
        let groups: Vec<(String, String, usize)> = self.query(|c| {
            c.prepare("SELECT family, status, COUNT(*) FROM adapters GROUP BY family, status")?
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get::<_, i64>(2)? as usize)))?
                .collect()
        })?;
        let weights: f64 = self.query(|c| {
            c.query_row("SELECT COALESCE(SUM(number), 0.0) FROM fields WHERE key = 'bytes'", [], |r| r.get(0))
        })?;
        let mut stats = Stats {
            adapters: groups.iter().map(|g| g.2).sum(),
            by_family: BTreeMap::new(),
            weights_bytes: weights as u64,
            blobs: 0,
            blob_bytes: 0,
            trashed: fs_err::read_dir(self.root().join("trash"))?.count(),
        };
        for (family, status, n) in groups {
            *stats.by_family.entry(family).or_default().entry(status).or_default() += n;
        }
        for (_, _, bytes) in self.blobs()? {
            stats.blobs += 1;
            stats.blob_bytes += bytes;
        }
        Ok(stats)
    }

    /// The blobs on disk: digest, path, bytes. Other files (a write cut short) are left out.
    pub(crate) fn blobs(&self) -> Result<Vec<(Digest, std::path::PathBuf, u64)>> {
        let mut out = Vec::new();
        for folder in fs_err::read_dir(self.root().join("blobs"))? {
            let folder = folder?;
            // A link, or a file that lies here, holds no blob of this store.
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs_err::read_dir(folder.path())? {
                let file = file?;
                let plain = file.file_type()?.is_file();
                if let Some(digest) =
                    Digest::try_from(file.file_name().to_string_lossy().into_owned()).ok().filter(|_| plain)
                {
                    out.push((digest, file.path(), file.metadata()?.len()));
                }
            }
        }
        out.sort();
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::new_adapter;

    #[test]
    fn listings_sort_by_numbers_and_text_and_put_what_lacks_the_field_last() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        for (name, n) in [("t/a", Some(10.0)), ("t/b", Some(9.0)), ("t/c", None), ("t/d", Some(10.0))] {
            let mut new = new_adapter(name, vec![name.as_bytes()[2]]);
            new.metrics.extend(n.map(|n| ("n".to_owned(), n)));
            store.commit_adapter(new).unwrap();
        }
        let order = |sort: &[(&str, bool)], limit| -> String {
            let sort = sort.iter().map(|(k, d)| ((*k).to_owned(), *d)).collect();
            let found = store.list(&Filter::all(), &Listing { sort, limit }).unwrap();
            found.iter().map(|r| r.value.as_str()).collect()
        };
        assert_eq!(order(&[("n", false)], None), "badc");
        assert_eq!(order(&[("n", true), ("value", true)], None), "dabc");
        assert_eq!(order(&[], Some(2)), "ab");
        let names = store.field_names().unwrap();
        assert_eq!((names["n"], names["value"]), (true, false));
        assert_eq!(store.field_values("family", 3).unwrap(), ["t"]);
    }

    #[test]
    fn lineage_goes_up_and_down_over_several_steps() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let mut last = "base-digest".to_owned();
        let mut ids = Vec::new();
        for name in ["t/a", "t/b", "t/c"] {
            let mut new = new_adapter(name, vec![name.as_bytes()[2]]);
            if ids.is_empty() {
                new.lineage.insert("base".into(), last.clone());
            } else {
                new.parents.push(last.clone());
            }
            last = store.commit_adapter(new).unwrap().id;
            ids.push(last.clone());
        }
        let (up, down) = store.lineage(&ids[1]).unwrap();
        assert_eq!(
            up.iter().map(|e| e.parent.as_str()).collect::<Vec<_>>(),
            [ids[0].as_str(), "base-digest"]
        );
        assert_eq!(down.iter().map(|e| e.child.as_str()).collect::<Vec<_>>(), [ids[2].as_str()]);
        assert_eq!(store.lineage("base-digest").unwrap().1.len(), 3);
    }
}
