//! Finding adapters: listings, one by its name, counts, lineage.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use crate::commit::{parse, short};
use crate::names::natural;
use crate::{AdapterRecord, Digest, Error, Filter, Result, Store, names};

/// How a listing is ordered and cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Fields to sort by, first one first; `true` is descending. Numbers come before text, adapters without the field last. Then
    /// by behaviour and id.
    pub sort: Vec<(String, bool)>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Numbers within text are compared as numbers (`topic/2` before `topic/10`), for people; else text is compared byte by byte.
    pub natural: bool,
}

/// Fields of a part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// How many adapters pass the filter.
    pub total: usize,
    /// Fields of the first of them, by name.
    pub rows: Vec<BTreeMap<String, String>>,
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

/// Fields that a listing can be sorted by at once.
const MOST_SORTED: usize = 16;

/// What a run's name begins with in lineage.
pub const RUN: &str = "run/";

impl Store {
    /// Adapters that pass the filter, in the listing's order.
    pub fn list(&self, filter: &Filter, listing: &Listing) -> Result<Vec<AdapterRecord>> {
        sortable(listing)?;
        let mut ids = self.query(|c| ids(c, filter, listing))?;
        ids.truncate(listing.limit.unwrap_or(usize::MAX));
        let rows: Vec<String> = self.query(|c| {
            let mut record = c.prepare_cached("SELECT record FROM adapters WHERE id = ?1")?;
            // One that was removed since is no longer among them.
            ids.iter().filter_map(|id| record.query_row([id], |r| r.get(0)).optional().transpose()).collect()
        })?;
        rows.iter().map(|json| parse(json)).collect()
    }

    /// The same, these fields of each alone (all if none is named), and how many there are without the limit. No record is read, so that a
    /// page of many thousands costs milliseconds.
    pub fn page(&self, filter: &Filter, listing: &Listing, keys: &[&str]) -> Result<Page> {
        sortable(listing)?;
        self.query(|c| {
            // All of it of one moment.
            let moment = c.unchecked_transaction()?;
            let mut ids = ids(&moment, filter, listing)?;
            let total = ids.len();
            ids.truncate(listing.limit.unwrap_or(usize::MAX));
            Ok(Page { total, rows: fields_of(&moment, &ids, keys)? })
        })
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

    /// Whether a filter and other fields asked for (an order, columns) can be answered: what an empty or odd answer may come from. A store
    /// without adapters answers anything.
    ///
    /// # Errors
    /// If no adapter has a field of that name, or numbers are compared with a word.
    pub fn check_keys<'a>(&self, filter: &'a Filter, asked: impl Iterator<Item = &'a str>) -> Result<()> {
        let known = self.field_names()?;
        if known.is_empty() {
            return Ok(());
        }
        // A column that no adapter here has a value for is a field all the same.
        let is_known = |key: &str| {
            let key = AdapterRecord::filed_as(key);
            known.contains_key(key) || AdapterRecord::COLUMNS.contains(&key)
        };
        let mut keys = filter.keys().into_iter().chain(asked);
        if let Some(key) = keys.find(|k| !is_known(k)) {
            let all = known.keys().map(String::as_str).chain(AdapterRecord::COLUMNS);
            let near = names::nearest(key, all, 1).first().map(|n| (*n).to_owned());
            // A tag's full name is needed only where something else has its short one.
            let plain =
                |k: &&String| k.strip_prefix(AdapterRecord::TAG).is_none_or(|t| !known.contains_key(t));
            let fields = known.keys().filter(plain).cloned().collect();
            return Err(Error::NoField { key: key.into(), near, fields });
        }
        match filter.ordered_by_text().iter().find(|(key, _)| known.get(*key) == Some(&true)) {
            Some((key, value)) => {
                Err(Error::NotANumber { key: (*key).to_owned(), value: (*value).to_owned() })
            }
            None => Ok(()),
        }
    }

    /// The values that a field has, most frequent first, at most `limit`.
    pub fn field_values(&self, key: &str, limit: usize) -> Result<Vec<String>> {
        let sql =
            "SELECT text FROM fields WHERE key = ?1 GROUP BY text ORDER BY COUNT(*) DESC, text LIMIT ?2";
        self.query(|c| {
            c.prepare(sql)?.query_map(rusqlite::params![key, limit as i64], |r| r.get(0))?.collect()
        })
    }

    /// The one adapter that a name stands for. In this order: a whole id, an alias, a behaviour, the beginning of an id, a value alone where
    /// only one adapter has it. (What could be both a value and the beginning of an id is a value up to 7 characters: `bed`, `decade`.)
    ///
    /// # Errors
    /// If there is none (with near names) or there are several (with what differs between them).
    pub fn adapter(&self, id: &str) -> Result<AdapterRecord> {
        let ask = |sql: &str| -> Result<Vec<AdapterRecord>> {
            let rows: Vec<String> =
                self.query(|c| c.prepare_cached(sql)?.query_map([id], |r| r.get(0))?.collect())?;
            rows.iter().map(|json| parse(json)).collect()
        };
        let hex = !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit());
        let whole = "SELECT record FROM adapters WHERE id = ?1";
        let alias = "SELECT a.record FROM aliases l JOIN adapters a ON a.id = l.adapter WHERE l.name = ?1";
        let behaviour = "SELECT record FROM adapters WHERE behaviour = ?1 ORDER BY id LIMIT 20";
        let beginning = "SELECT record FROM adapters WHERE id >= ?1 AND id < ?1 || 'g' ORDER BY id LIMIT 20";
        let value = "SELECT a.record FROM fields f JOIN adapters a ON a.id = f.adapter
                     WHERE f.key = 'value' AND f.text = ?1 ORDER BY a.behaviour, a.id LIMIT 20";
        let steps: &[&str] = match id.len() {
            0 => &[],
            1..8 if hex => &[alias, behaviour, value, beginning],
            _ if hex => &[whole, alias, behaviour, beginning, value],
            _ => &[alias, behaviour, value],
        };
        for sql in steps {
            match &ask(sql)?[..] {
                [] => {}
                [one] => return Ok(one.clone()),
                many => return Err(Error::Ambiguous { id: id.into(), candidates: told_apart(many) }),
            }
        }
        Err(Error::NotFound { id: id.into(), suggestion: self.suggestion(id)? })
    }

    /// What was perhaps meant: near names, or that it is a family.
    fn suggestion(&self, id: &str) -> Result<String> {
        let of_family: i64 = self.query(|c| {
            let family = id.trim_end_matches('/');
            c.query_row("SELECT COUNT(*) FROM adapters WHERE family = ?1", [family], |r| r.get(0))
        })?;
        if of_family > 0 {
            return Ok(format!("; it is a family, of {of_family} adapters"));
        }
        let names: Vec<String> = self.query(|c| {
            c.prepare(
                "SELECT DISTINCT text FROM fields WHERE key = 'behaviour' UNION SELECT name FROM aliases",
            )?
            .query_map([], |r| r.get(0))?
            .collect()
        })?;
        let near = names::nearest(id, names.iter().map(String::as_str), 3);
        let near: Vec<String> = near.into_iter().map(|n| format!("{n:?}")).collect();
        let part = || {
            let hit = names.iter().find(|n| id.len() > 2 && n.contains(id))?;
            Some(vec![format!("{hit:?}")])
        };
        let near = if near.is_empty() { part().unwrap_or_default() } else { near };
        Ok(if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) })
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

fn turned(order: Ordering, descending: bool) -> Ordering {
    if descending { order.reverse() } else { order }
}

/// Adapters of one name, each with what it alone has of what differs between them.
fn told_apart(many: &[AdapterRecord]) -> String {
    const SHOWN: usize = 5;
    // Of several families all settings differ: then the name says enough.
    let one_family = many.iter().all(|r| r.family == many[0].family);
    let mut keys: Vec<String> =
        ["rank", "alpha", "seed", "split", "status", "base"].map(str::to_owned).to_vec();
    let mut rows: Vec<BTreeMap<String, String>> = Vec::new();
    for r in many {
        let mut row = BTreeMap::new();
        if one_family {
            settings(&r.spec, "", &mut row);
        }
        for key in &keys {
            row.extend(r.field(key).map(|v| (key.clone(), v)));
        }
        rows.push(row);
    }
    let further: BTreeSet<String> =
        rows.iter().flat_map(|r| r.keys().cloned()).filter(|k| !keys.contains(k)).collect();
    keys.extend(further);
    keys.retain(|key| rows.iter().any(|r| r.get(key) != rows[0].get(key)));
    let shown = many.iter().zip(&rows).take(SHOWN).map(|(r, row)| {
        let mut parts = vec![r.behaviour.clone()];
        parts.extend(keys.iter().filter_map(|key| Some(format!("{key} {}", row.get(key)?))).take(5));
        parts.push(format!("created {}", r.created_at.get(..16).unwrap_or_default().replace('T', " ")));
        format!("{} ({})", short(&r.id), parts.join(", "))
    });
    let more = many.len().saturating_sub(SHOWN);
    let rest = (more > 0).then(|| format!("and {more} more"));
    shown.chain(rest).collect::<Vec<_>>().join("; ")
}

/// The plain settings of a specification by the last part of their name: what a sweep varies.
fn settings(value: &serde_json::Value, name: &str, out: &mut BTreeMap<String, String>) {
    const LONGEST: usize = 24;
    let hash = |s: &str| s.len() >= 32 && s.bytes().all(|b| b.is_ascii_hexdigit());
    match value {
        serde_json::Value::Object(map) => map.iter().for_each(|(k, v)| settings(v, k, out)),
        serde_json::Value::Number(n) => drop(out.insert(name.into(), n.to_string())),
        serde_json::Value::Bool(b) => drop(out.insert(name.into(), b.to_string())),
        serde_json::Value::String(s) if s.len() <= LONGEST && !hash(s) && name != "id" => {
            out.insert(name.into(), s.clone());
        }
        _ => {}
    }
}

/// Whether a listing can be sorted so.
fn sortable(listing: &Listing) -> Result<()> {
    let n = listing.sort.len();
    if n > MOST_SORTED { Err(Error::Sort { n, most: MOST_SORTED }) } else { Ok(()) }
}

/// Ids of all adapters that pass the filter, in the listing's order, without its limit. Only the table of fields is looked at: records
/// are long.
fn ids(c: &Connection, filter: &Filter, listing: &Listing) -> rusqlite::Result<Vec<String>> {
    struct Row {
        id: String,
        behaviour: String,
        keys: Vec<Option<(Option<f64>, String)>>,
    }
    let mut parameters = Vec::new();
    let condition = filter.sql(&mut parameters);
    let sql = format!(
        "SELECT a.id, a.behaviour FROM (SELECT adapter AS id, text AS behaviour FROM fields WHERE key = 'behaviour') a WHERE {condition}"
    );
    let mut field = c.prepare_cached("SELECT number, text FROM fields WHERE adapter = ?1 AND key = ?2")?;
    let mut all = c.prepare_cached(&sql)?;
    let mut found = all.query(rusqlite::params_from_iter(parameters))?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let id: String = row.get(0)?;
        let mut keys = Vec::new();
        for (key, _) in &listing.sort {
            let key = AdapterRecord::filed_as(key);
            keys.push(field.query_row([&id, key], |r| Ok((r.get(0)?, r.get(1)?))).optional()?);
        }
        rows.push(Row { id, behaviour: row.get(1)?, keys });
    }
    let text = |a: &str, b: &str| if listing.natural { natural(a, b) } else { a.cmp(b) };
    rows.sort_by(|a, b| {
        for ((x, y), (_, descending)) in a.keys.iter().zip(&b.keys).zip(&listing.sort) {
            // What lacks the field, or is no number, comes last in either direction.
            let order = match (x, y) {
                (Some((Some(m), _)), Some((Some(n), _))) => turned(m.total_cmp(n), *descending),
                (Some((None, m)), Some((None, n))) => turned(text(m, n), *descending),
                (x, y) => {
                    let rank = |v: &Option<(Option<f64>, String)>| {
                        v.as_ref().map_or(2, |v| i32::from(v.0.is_none()))
                    };
                    rank(x).cmp(&rank(y))
                }
            };
            if order.is_ne() {
                return order;
            }
        }
        text(&a.behaviour, &b.behaviour).then_with(|| a.id.cmp(&b.id))
    });
    Ok(rows.into_iter().map(|r| r.id).collect())
}

/// These fields of adapters, all if none is named.
pub(crate) fn fields_of(
    c: &Connection,
    ids: &[String],
    keys: &[&str],
) -> rusqlite::Result<Vec<BTreeMap<String, String>>> {
    let mut all = c.prepare_cached("SELECT key, text FROM fields WHERE adapter = ?1")?;
    let mut one = c.prepare_cached("SELECT text FROM fields WHERE adapter = ?1 AND key = ?2")?;
    ids.iter()
        .map(|id| {
            if keys.is_empty() {
                return all.query_map([id], |r| Ok((r.get(0)?, r.get(1)?)))?.collect();
            }
            let mut row = BTreeMap::new();
            for key in keys {
                let text = one.query_row([id, AdapterRecord::filed_as(key)], |r| r.get(0)).optional()?;
                row.extend(text.map(|text| ((*key).to_owned(), text)));
            }
            Ok(row)
        })
        .collect()
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
            let found = store.list(&Filter::all(), &Listing { sort, limit, natural: false }).unwrap();
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
    fn windows_are_parts_of_the_whole_order_in_both_directions() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        for i in 0..9 {
            let mut new = new_adapter(&format!("topic/{i}"), vec![i as u8]);
            match i % 3 {
                0 => drop(new.metrics.insert("depth".into(), f64::from(i))),
                1 => drop(new.tags.insert("depth".into(), format!("text {i}"))),
                _ => {}
            }
            store.commit_adapter(new).unwrap();
        }
        for down in [false, true] {
            let ids = |offset, limit| -> Vec<String> {
                let page =
                    store.window(&Filter::all(), ("depth", down), offset, limit, &["behaviour"]).unwrap();
                assert_eq!(page.total, 9);
                page.rows.into_iter().map(|r| r["behaviour"].clone()).collect()
            };
            let all = ids(0, 100);
            let numbers =
                if down { ["topic/6", "topic/3", "topic/0"] } else { ["topic/0", "topic/3", "topic/6"] };
            assert_eq!((all.len(), &all[..3]), (9, &numbers.map(str::to_owned)[..]));
            for (offset, limit) in [(0, 2), (2, 2), (3, 3), (4, 4), (7, 5), (9, 2), (20, 2)] {
                let end = (offset + limit).min(9);
                assert_eq!(
                    ids(offset, limit),
                    all[offset.min(9)..end.max(offset.min(9))],
                    "{offset} {limit}"
                );
            }
        }
        let some = Filter::all().and("behaviour in (topic/1, topic/3)").unwrap();
        assert_eq!(
            store.window(&some, ("depth", false), 1, 5, &["behaviour"]).unwrap().rows[0]["behaviour"],
            "topic/1"
        );
    }

    #[test]
    fn pages_hold_fields_by_all_their_names_in_natural_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        for name in ["t/10", "t/2", "u/1"] {
            store.commit_adapter(new_adapter(name, name.as_bytes().to_vec())).unwrap();
        }
        let two = store.adapter("t/2").unwrap();
        store.tag(&two.id, &[("note", Some("7"))]).unwrap();
        let listing = Listing { limit: Some(2), natural: true, ..Listing::default() };
        let page = store
            .page(&Filter::all().begins("behaviour", "t/"), &listing, &["value", "created_at", "tag.note"])
            .unwrap();
        let value = |row: usize, key: &str| page.rows[row].get(key).cloned();
        assert_eq!((page.total, page.rows.len()), (2, 2));
        assert_eq!((value(0, "value"), value(1, "value")), (Some("2".into()), Some("10".into())));
        assert_eq!(
            (value(0, "created_at"), value(0, "tag.note")),
            (Some(two.created_at.clone()), Some("7".into()))
        );
        assert_eq!(value(1, "tag.note"), None);
        let all = &store.page(&Filter::all(), &Listing::default(), &[]).unwrap();
        assert_eq!((all.total, all.rows[0]["value"].as_str()), (3, "10"));
        for condition in
            ["tag.note = 7", "note = 7", "created_at >= 2020 and r = 1 and note = 7", "name = t/2"]
        {
            let filter = Filter::all().and(condition).unwrap();
            assert_eq!(store.page(&filter, &listing, &[]).unwrap().total, 1, "{condition}");
        }
        assert!(store.tag(&two.id, &[("created_at", Some("x"))]).is_err());
    }

    #[test]
    fn names_are_values_where_one_adapter_has_them_and_else_say_what_differs_or_is_near() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let mut put = |behaviour: &str, seed: u64| {
            let spec =
                serde_json::json!({"behaviour": {"id": behaviour, "seed": seed}, "base": "0".repeat(64)});
            let bytes = format!("{behaviour}{seed}").into_bytes();
            let peft = crate::PeftConfig::of_rank("m", seed as usize, &["q_proj"]);
            store.commit_adapter(crate::NewAdapter::of_spec(spec, behaviour, peft, bytes)).unwrap()
        };
        let cats = put("topic/cats", 1);
        put("topic/bees", 1);
        put("topic/bees", 2);
        put("gated/bed", 1);
        put("gated/tea", 1);
        put("topic/tea", 1);
        let fails = |name: &str| store.adapter(name).unwrap_err().to_string();
        assert_eq!(store.adapter("cats").unwrap(), cats);
        assert_eq!(store.adapter("bed").unwrap().behaviour, "gated/bed");
        assert_eq!(store.adapter(&cats.id).unwrap(), cats);
        assert!(fails("topic/cat").ends_with("; did you mean \"topic/cats\"?"), "{}", fails("topic/cat"));
        assert!(fails("topic/").contains("family, of 4 adapters"), "{}", fails("topic"));
        let many = fails("bees");
        assert!(
            many.contains("rank 1, alpha 1, seed 1, created")
                && many.contains("rank 2, alpha 2, seed 2, created"),
            "{many}"
        );
        let many = fails("tea");
        assert!(many.contains("(gated/tea, created") && many.contains("(topic/tea, created"), "{many}");
        assert!(!fails("zebra").contains("did you mean"));
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
