//! Mending what a check finds, where nothing has to be guessed: rows from receipts, receipts from rows, and all that is derived.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, Transaction};
use serde::Serialize;

use super::{COLUMNS, columns_of, damaged, jobs};
use crate::blobs::present;
use crate::commit::{files, insert, parse, read_receipt, receipt_text};
use crate::{AdapterRecord, Alias, Digest, Result, Store, index, write_atomic};

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// Rows brought back from receipts.
    pub rows: usize,
    /// Receipts written again from rows.
    pub receipts: usize,
    /// Rows replaced by what their receipts, or without one their records, say.
    pub replaced: usize,
    /// Adapters whose fields or lineage were filed anew.
    pub filed: usize,
    /// Aliases on which the catalogue and `aliases.json` disagreed.
    pub aliases: usize,
    /// Aliases of adapters that are gone, removed from both.
    pub dropped_aliases: Vec<Alias>,
    /// Jobs whose state was put back to the end of their log, or whose needs were counted anew.
    pub jobs: usize,
    /// Needs of or on jobs that do not exist, removed.
    pub needs: usize,
    /// Runs whose adapters were filed anew.
    pub runs: usize,
    /// Damaged blobs that nothing names, removed.
    pub blobs: usize,
}

impl Store {
    /// Mends what can be mended without guessing: rows from receipts, receipts from rows, whatever is derived; a receipt wins
    /// over a row that differs, a log over a state. Running it again changes nothing.
    pub fn repair(&mut self) -> Result<Repair> {
        let mut done = Repair::default();
        let rows = self.catalogue()?.records;
        let blobs = self.blobs()?;
        let named: BTreeSet<&Digest> = rows.iter().flat_map(files).collect();
        for (digest, _) in damaged(&blobs, &|_, _| {})? {
            if !named.contains(&digest)
                && let Some((_, path, _)) = blobs.iter().find(|b| b.0 == digest)
            {
                fs_err::remove_file(path)?;
                done.blobs += 1;
            }
        }
        // Each thing is read again and mended under one lock: whoever removes or tags an adapter meanwhile is not undone.
        self.rows_from_receipts(&mut done)?;
        done.replaced += self.transaction(columns_from_records)?;
        for row in self.catalogue()?.records {
            done.receipts += self.receipt_from_row(&row)?;
        }
        (done.aliases, done.dropped_aliases) = self.reconcile_aliases()?;
        done.runs = self.refile_runs()?;
        self.transaction(|t| {
            done.filed = index::mend(t)?;
            (done.jobs, done.needs) = jobs::mend(t)?;
            Ok(())
        })?;
        Ok(done)
    }

    fn rows_from_receipts(&mut self, done: &mut Repair) -> Result<()> {
        let root = self.root.clone();
        for (path, first) in self.receipts()? {
            // One that cannot be read, or lies in another's place, is reported by `check` and left for a person.
            let Ok(first) = first else { continue };
            if path != self.receipt_path(&first.spec_hash) || files(&first).any(|d| self.get_blob(d).is_err())
            {
                continue;
            }
            let (rows, replaced) = self.transaction(|t| {
                let Ok(receipt) = read_receipt(&path) else { return Ok((0, 0)) };
                if !files(&receipt).all(|d| present(&root, d)) {
                    return Ok((0, 0));
                }
                // Whichever of the two a damaged row still has.
                let known: Vec<([String; 6], String)> = t
                    .prepare_cached(&format!(
                        "SELECT {}, record FROM adapters WHERE spec_hash = ?1 OR id = ?2",
                        COLUMNS.join(", ")
                    ))?
                    .query_map([&receipt.spec_hash, &receipt.id], |r| Ok((columns_of(r)?, r.get(6)?)))?
                    .collect::<rusqlite::Result<_>>()?;
                if let [(columns, json)] = &known[..]
                    && parse(json).is_ok_and(|record| record == receipt)
                    && wrong_column(columns, &receipt).is_none()
                {
                    return Ok((0, 0));
                }
                t.execute(
                    "DELETE FROM adapters WHERE spec_hash = ?1 OR id = ?2",
                    [&receipt.spec_hash, &receipt.id],
                )?;
                let put = insert(t, &receipt)?;
                Ok(if known.is_empty() { (put, 0) } else { (0, put) })
            })?;
            done.rows += rows;
            done.replaced += replaced;
        }
        Ok(())
    }

    fn receipt_from_row(&mut self, row: &AdapterRecord) -> Result<usize> {
        let path = self.receipt_path(&row.spec_hash);
        let mut failed = None;
        let written = self.transaction(|t| {
            let json: Option<String> = t
                .query_row("SELECT record FROM adapters WHERE spec_hash = ?1", [&row.spec_hash], |r| r.get(0))
                .optional()?;
            let Some(record) = json.and_then(|j| parse(&j).ok()).filter(|_| !path.exists()) else {
                return Ok(0);
            };
            match write_atomic(&path, receipt_text(&record).as_bytes()) {
                Ok(()) => Ok(1),
                Err(e) => {
                    failed = Some(e);
                    Ok(0)
                }
            }
        })?;
        failed.map_or(Ok(written), Err)
    }
}

/// A column that is not what the record says: its name and what it holds.
pub(super) fn wrong_column(columns: &[String; 6], record: &AdapterRecord) -> Option<(&'static str, String)> {
    let wrong = |(name, text): &(&str, &String)| record.field(name).as_ref() != Some(*text);
    COLUMNS.into_iter().zip(columns).find(wrong).map(|(name, text)| (name, text.clone()))
}

/// Puts rows anew whose columns are not what their record says.
fn columns_from_records(t: &Transaction<'_>) -> rusqlite::Result<usize> {
    let rows: Vec<(i64, [String; 6], String)> = t
        .prepare(&format!("SELECT {}, record, rowid FROM adapters", COLUMNS.join(", ")))?
        .query_map([], |r| Ok((r.get(7)?, columns_of(r)?, r.get(6)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut n = 0;
    for (row, columns, json) in rows {
        let Ok(record) = parse(&json) else { continue };
        if wrong_column(&columns, &record).is_some() {
            t.execute("DELETE FROM adapters WHERE rowid = ?1", [row])?;
            n += insert(t, &record)?;
        }
    }
    Ok(n)
}
