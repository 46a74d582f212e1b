//! A part of a long listing, in milliseconds: what is shown of a hundred thousand adapters at once.
//!
//! The catalogue's plans for a filter look every adapter's fields up, each on a page of its own. Here each condition on one field is read
//! from an index, in one piece, into a set; the sets are joined as the filter says; and adapters are gone through in the order of another
//! index until the part is full.

use std::collections::HashSet;

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, params_from_iter};

use crate::query::fields_of;
use crate::{AdapterRecord, Digest, Filter, Page, Result, Store};

/// An adapter's id in short: its first 128 bits.
type Key = u128;

fn key(id: &str) -> Key {
    let bits = |digits: &str| Key::from_str_radix(digits.get(..32)?, 16).ok();
    // Ids are digests; one that is none gets one.
    bits(id).or_else(|| bits(&Digest::of(id.as_bytes()).to_string())).unwrap_or_default()
}

/// Some adapters, or all but some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Set {
    These(HashSet<Key>),
    AllBut(HashSet<Key>),
}

use Set::{AllBut, These};

impl Set {
    pub(crate) fn all() -> Self {
        AllBut(HashSet::new())
    }

    pub(crate) fn none() -> Self {
        These(HashSet::new())
    }

    fn holds(&self, key: Key) -> bool {
        match self {
            These(set) => set.contains(&key),
            AllBut(set) => !set.contains(&key),
        }
    }

    pub(crate) fn not(self) -> Self {
        match self {
            These(set) => AllBut(set),
            AllBut(set) => These(set),
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (These(a), These(b)) => {
                let (mut few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
                few.retain(|k| many.contains(k));
                These(few)
            }
            (These(mut some), AllBut(but)) | (AllBut(but), These(mut some)) => {
                some.retain(|k| !but.contains(k));
                These(some)
            }
            (AllBut(mut a), AllBut(b)) => {
                a.extend(b);
                AllBut(a)
            }
        }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }

    /// How many there are, of so many in all.
    fn len(&self, all: usize) -> usize {
        match self {
            These(set) => set.len(),
            AllBut(set) => all - set.len().min(all),
        }
    }
}

/// A part that is being filled.
struct Part {
    skip: usize,
    limit: usize,
    ids: Vec<String>,
}

impl Part {
    fn full(&self) -> bool {
        self.ids.len() == self.limit
    }

    /// Takes the next one.
    fn take(&mut self, id: &str) {
        if self.skip > 0 {
            self.skip -= 1;
        } else if !self.full() {
            self.ids.push(id.to_owned());
        }
    }
}

impl Store {
    /// A part of those that pass the filter, in the order of a field (numbers, then text, then those without it; then by id): these fields of
    /// each, and how many there are in all.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub fn window(
        &self,
        filter: &Filter,
        (field, descending): (&str, bool),
        offset: usize,
        limit: usize,
        keys: &[&str],
    ) -> Result<Page> {
        self.query(|c| {
            // All of it of one moment.
            let moment = c.unchecked_transaction()?;
            let passing = filter.set(&mut |rows, parameters| among(&moment, rows, parameters))?;
            let all: i64 =
                moment.prepare_cached("SELECT COUNT(*) FROM adapters")?.query_row([], |r| r.get(0))?;
            let total = passing.len(all as usize);
            let mut part =
                Part { skip: offset, limit: limit.min(total.saturating_sub(offset)), ids: Vec::new() };
            if !part.full() {
                fill(&moment, &passing, (AdapterRecord::filed_as(field), descending), &mut part)?;
            }
            Ok(Page { total, rows: fields_of(&moment, &part.ids, keys)? })
        })
    }
}

/// Those of a selection.
fn among(c: &Connection, rows: &str, parameters: Vec<Sql>) -> rusqlite::Result<Set> {
    let mut statement = c.prepare_cached(rows)?;
    let mut found = statement.query(params_from_iter(parameters))?;
    let mut set = HashSet::new();
    while let Some(row) = found.next()? {
        set.insert(key(row.get_ref(0)?.as_str()?));
    }
    Ok(These(set))
}

/// Goes through adapters in the order of a field until the part is full.
fn fill(
    c: &Connection,
    passing: &Set,
    (field, descending): (&str, bool),
    part: &mut Part,
) -> rusqlite::Result<()> {
    let turn = if descending { "DESC" } else { "ASC" };
    let mut with = HashSet::new();
    for (column, kind) in [("number", "IS NOT NULL"), ("text", "IS NULL")] {
        let mut statement = c.prepare_cached(&format!(
            "SELECT adapter FROM fields WHERE key = ?1 AND number {kind} ORDER BY {column} {turn}, adapter {turn}"
        ))?;
        let mut rows = statement.query([field])?;
        while let Some(row) = rows.next()? {
            let id = row.get_ref(0)?.as_str()?;
            let key = key(id);
            if passing.holds(key) {
                with.insert(key);
                part.take(id);
                if part.full() {
                    return Ok(());
                }
            }
        }
    }
    let mut statement = c.prepare_cached("SELECT id FROM adapters ORDER BY id")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get_ref(0)?.as_str()?;
        let key = key(id);
        if passing.holds(key) && !with.contains(&key) {
            part.take(id);
            if part.full() {
                return Ok(());
            }
        }
    }
    Ok(())
}
